# Cross-builds for aarch64 Linux with Debian's compiler. The target's Python is the one in LORA_EDGE_ARM_ROOT; what its
# extension modules end in is in SETUPTOOLS_EXT_SUFFIX, which scikit-build-core reads too.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

set(PYTHON_MODULE_EXTENSION "$ENV{SETUPTOOLS_EXT_SUFFIX}" CACHE INTERNAL "")
file(GLOB Python_INCLUDE_DIR "$ENV{LORA_EDGE_ARM_ROOT}/usr/include/python3.*")
set(Python_INCLUDE_DIR "${Python_INCLUDE_DIR}" CACHE PATH "")
# Debian's pyconfig.h includes <aarch64-linux-gnu/python3.N/pyconfig.h>; the compiler's own headers come first.
set(CMAKE_CXX_FLAGS_INIT "-idirafter $ENV{LORA_EDGE_ARM_ROOT}/usr/include")
