# The target ds_torch: headers and libraries of the torch that DS_PYTHON imports, or of Torch_DIR
# (…/torch/share/cmake/Torch). torch's own CMake package is not used: it asks for the CUDA toolkit that torch
# was built with, which nothing here needs. Without a torch the target is missing and DS_TORCH_MISSING says
# why.
if(Torch_DIR)
  get_filename_component(DS_TORCH_FOLDER ${Torch_DIR}/../../.. ABSOLUTE)
else()
  execute_process(
    COMMAND ${DS_PYTHON} -c "import torch; print(torch.utils.cmake_prefix_path)"
    OUTPUT_VARIABLE prefix ERROR_VARIABLE error RESULT_VARIABLE result OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT result EQUAL 0)
    set(DS_TORCH_MISSING "${DS_PYTHON} cannot import torch")
    return()
  endif()
  get_filename_component(DS_TORCH_FOLDER ${prefix}/../.. ABSOLUTE)
endif()

set(DS_TORCH_LIBRARIES "")
foreach(name IN ITEMS torch torch_cpu c10)
  if(NOT EXISTS ${DS_TORCH_FOLDER}/lib/lib${name}.so)
    set(DS_TORCH_MISSING "${DS_TORCH_FOLDER}/lib/lib${name}.so is missing")
    return()
  endif()
  list(APPEND DS_TORCH_LIBRARIES ${DS_TORCH_FOLDER}/lib/lib${name}.so)
endforeach()

add_library(ds_torch INTERFACE)
target_include_directories(ds_torch SYSTEM INTERFACE
  ${DS_TORCH_FOLDER}/include ${DS_TORCH_FOLDER}/include/torch/csrc/api/include)
# libtorch.so brings libtorch_cuda.so along where there is one, though nothing refers to it.
target_link_libraries(ds_torch INTERFACE -Wl,--no-as-needed ${DS_TORCH_LIBRARIES} -Wl,--as-needed)
