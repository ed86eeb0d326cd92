# Debian's python3 comes without Python.h, which is in python3-dev. Where it is missing, the headers alone are fetched into
# the build folder, so that a compiler is all that a build needs.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('include'))"
  OUTPUT_VARIABLE lora_edge_include OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT CMAKE_CROSSCOMPILING AND NOT EXISTS ${lora_edge_include}/Python.h)
  set(lora_edge_headers ${CMAKE_BINARY_DIR}/python_headers)
  set(lora_edge_version ${Python_VERSION_MAJOR}.${Python_VERSION_MINOR})
  set(lora_edge_include ${lora_edge_headers}/usr/include/python${lora_edge_version})
  if(NOT EXISTS ${lora_edge_include}/Python.h)
    message(STATUS "Python.h is missing: fetching the headers of Python ${lora_edge_version}")
    execute_process(
      COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/tools/python_headers.sh ${lora_edge_headers} ${lora_edge_version}
      RESULT_VARIABLE lora_edge_failed ERROR_VARIABLE lora_edge_error)
    if(lora_edge_failed)
      message(FATAL_ERROR "Python.h of Python ${lora_edge_version} is missing and could not be fetched. "
                          "Install it (on Debian: sudo apt-get install python3-dev) and run this again.\n${lora_edge_error}")
    endif()
  endif()
  set(Python_INCLUDE_DIR ${lora_edge_include} CACHE PATH "Python's headers" FORCE)
  include_directories(SYSTEM ${lora_edge_headers}/usr/include) # pyconfig.h leads there
endif()
