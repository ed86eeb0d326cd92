# Builds for LORA_EDGE_WHEEL_ARCH (x86_64 or aarch64) with clang, against the headers and libraries in
# LORA_EDGE_WHEEL_SYSROOT: those of an older release, so that the result runs on any newer one. The C++ runtime is
# linked statically and hidden. The target's Python is given by its headers and by what its extension modules end in.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{LORA_EDGE_WHEEL_ARCH})
set(CMAKE_SYSROOT $ENV{LORA_EDGE_WHEEL_SYSROOT})
set(CMAKE_CXX_COMPILER clang++-19)
set(CMAKE_CXX_COMPILER_TARGET $ENV{LORA_EDGE_WHEEL_ARCH}-linux-gnu)
set(CMAKE_CXX_COMPILER_LAUNCHER ccache) # the core is the same for each Python
set(CMAKE_AR llvm-ar-19 CACHE STRING "")
set(CMAKE_RANLIB llvm-ranlib-19 CACHE STRING "")
set(CMAKE_STRIP llvm-strip-19 CACHE STRING "")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(linking "-fuse-ld=lld-19 -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL")
set(CMAKE_EXE_LINKER_FLAGS_INIT "${linking}")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "${linking}")

set(PYTHON_MODULE_EXTENSION "$ENV{SETUPTOOLS_EXT_SUFFIX}" CACHE INTERNAL "")
set(Python_INCLUDE_DIR "$ENV{LORA_EDGE_WHEEL_PYTHON_INCLUDE}" CACHE PATH "" FORCE) # over that of the Python that builds
set(CMAKE_CXX_FLAGS_INIT "-include ${CMAKE_CURRENT_LIST_DIR}/old_symbols.h")
