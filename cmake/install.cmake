# What is installed. A wheel takes the component `python` alone: the two shared libraries, inside the Python
# package. `cmake --install` gives the libraries, the C headers and a CMake package:
#
#   find_package(ds_diffusers)
#   ds_diffusers::ops    operators and CPU kernels, a static library for C programs
#   ds_diffusers::torch  libds_diffusers.so, to be loaded into a process with LibTorch
#   ds_diffusers::cuda   libds_diffusers_cuda.so, where it was built; opened by ds_cuda_module_open
include(CMakePackageConfigHelpers)

set(DS_LOADED_LIBRARIES ds_diffusers)
if(DS_HAVE_CUDA)
  list(APPEND DS_LOADED_LIBRARIES ds_diffusers_cuda)
endif()

if(SKBUILD)
  install(TARGETS ${DS_LOADED_LIBRARIES} LIBRARY DESTINATION ds_diffusers/lib COMPONENT python)
  return()
endif()

set(DS_CONFIG_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ds_diffusers)
set(DS_HEADER_DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ds_diffusers)

set_target_properties(ds_diffusers_ops PROPERTIES EXPORT_NAME ops)
set_target_properties(ds_diffusers PROPERTIES EXPORT_NAME torch)
if(DS_HAVE_CUDA)
  set_target_properties(ds_diffusers_cuda PROPERTIES EXPORT_NAME cuda)
endif()
install(TARGETS ds_diffusers_ops ${DS_LOADED_LIBRARIES} EXPORT ds_diffusers_targets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

# Every contract, so that a new operator's is installed without a change here.
file(GLOB DS_PUBLIC_HEADERS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/ops/ds_*.h ${PROJECT_SOURCE_DIR}/kernels/ds_*.h)
install(FILES ${DS_PUBLIC_HEADERS} DESTINATION ${DS_HEADER_DESTINATION})
install(FILES ${PROJECT_SOURCE_DIR}/kernels/cpu/ds_kernels_cpu.h DESTINATION ${DS_HEADER_DESTINATION}/cpu)
install(FILES ${PROJECT_SOURCE_DIR}/kernels/cuda/ds_cuda_module.h DESTINATION ${DS_HEADER_DESTINATION}/cuda)

install(EXPORT ds_diffusers_targets NAMESPACE ds_diffusers:: FILE ds_diffusersTargets.cmake
        DESTINATION ${DS_CONFIG_DESTINATION})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/ds_diffusersConfig.cmake.in
  ${PROJECT_BINARY_DIR}/ds_diffusersConfig.cmake INSTALL_DESTINATION ${DS_CONFIG_DESTINATION})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ds_diffusersConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ds_diffusersConfig.cmake ${PROJECT_BINARY_DIR}/ds_diffusersConfigVersion.cmake
        DESTINATION ${DS_CONFIG_DESTINATION})
