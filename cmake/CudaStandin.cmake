# The stand-in for libcuda.so.1 that tests load in its place: the driver's functions on the CPU, with the project's kernels and
# the tests' own compiled in, as C++. In standin/; standin_old/ has one that lacks what lora_edge needs of a driver.
set(standin ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/standin)
file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cpp/backend/cuda/kernels/*.cu)
list(APPEND cuda_kernels ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/toys.cu)
set_source_files_properties(${cuda_kernels} PROPERTIES LANGUAGE CXX)

add_library(cuda_standin_kernels OBJECT ${cuda_kernels})
target_link_libraries(cuda_standin_kernels PRIVATE lora_edge_flags)
# "device.h" is found and then left out, as the stand-in's comes first. What a device refuses is checked: see sanitize.cpp.
target_compile_options(cuda_standin_kernels PRIVATE -x c++ -include ${standin}/device.h
  -iquote ${CMAKE_CURRENT_SOURCE_DIR}/cpp/backend/cuda/kernels -fsanitize=alignment,bounds)

add_library(cuda_standin SHARED
  $<TARGET_OBJECTS:cuda_standin_kernels>
  ${standin}/api_device.cpp
  ${standin}/api_memory.cpp
  ${standin}/api_stream.cpp
  ${standin}/block.cpp
  ${standin}/driver.cpp
  ${standin}/fiber.cpp
  ${standin}/machine.cpp
  ${standin}/memory.cpp
  ${standin}/module.cpp
  ${standin}/registry.cpp
  ${standin}/sanitize.cpp
  ${standin}/warp.cpp)
target_link_libraries(cuda_standin PRIVATE lora_edge_flags Threads::Threads)
target_compile_options(cuda_standin PRIVATE -O2) # in debug builds too, where tests would take long
set_target_properties(cuda_standin PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
set_source_files_properties(${standin}/warp.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON) # device.h's sync() is not POSIX's

add_library(cuda_standin_old SHARED ${standin}/old.cpp)
target_link_libraries(cuda_standin_old PRIVATE lora_edge_flags)

# They are loaded from their folders. Without a soname, one that a process has loaded by its path is no libcuda to others in it.
foreach(library cuda_standin cuda_standin_old)
  string(REPLACE cuda_ "" folder ${library})
  set_target_properties(${library} PROPERTIES
    OUTPUT_NAME cuda SUFFIX .so.1 NO_SONAME ON LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${folder})
endforeach()
