# Options, compilers, and the flags that every target of the project is compiled with.
include(GNUInstallDirs)
include(CheckLanguage)

option(DS_BUILD_TESTS "Build the native tests (needs GoogleTest) and register the Python tests with CTest" OFF)
option(DS_WARNINGS_AS_ERRORS "Fail on a compiler warning" ON)
set(DS_CUDA AUTO CACHE STRING "Build libds_diffusers_cuda.so: AUTO (where nvcc is found), ON or OFF")
set(DS_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;90-virtual" CACHE STRING
    "Targets of libds_diffusers_cuda.so; one of them makes a quick build, e.g. 90a-real")
set(DS_SANITIZE "" CACHE STRING "Sanitizers for C and C++ code, e.g. address,undefined")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

set(DS_OLDEST_NVCC 13.0)
set(DS_HAVE_CUDA OFF)
if(NOT DS_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)
    # A compiler that was missing at the last configuration may have been installed since.
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${DS_CUDA_ARCHITECTURES})
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL ${DS_OLDEST_NVCC})
      set(DS_HAVE_CUDA ON)
    elseif(DS_CUDA STREQUAL "ON")
      message(FATAL_ERROR "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, must be ${DS_OLDEST_NVCC} or newer")
    else()
      message(STATUS "ds_diffusers: nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, must be ${DS_OLDEST_NVCC} or newer: "
                     "building the CPU library alone; CUDA tensors will be refused")
    endif()
  elseif(DS_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DS_CUDA is ON, but no working CUDA compiler (nvcc) was found")
  else()
    message(STATUS "ds_diffusers: no working nvcc found: building the CPU library alone; CUDA tensors will be refused")
  endif()
endif()

# Flags common to all targets, as one interface target.
add_library(ds_flags INTERFACE)
target_compile_options(ds_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wshadow -Wpointer-arith -Wundef>
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes>
  $<$<AND:$<BOOL:${DS_WARNINGS_AS_ERRORS}>,$<COMPILE_LANGUAGE:C,CXX>>:-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<BOOL:${DS_WARNINGS_AS_ERRORS}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>)
if(DS_SANITIZE)
  target_compile_options(ds_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${DS_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(ds_flags INTERFACE $<$<NOT:$<LINK_LANGUAGE:CUDA>>:-fsanitize=${DS_SANITIZE}>)
endif()
