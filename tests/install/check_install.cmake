# Installs the build in BUILD_FOLDER below WORK_FOLDER, then configures, builds and runs the program against it.
file(REMOVE_RECURSE ${WORK_FOLDER})
set(prefix ${WORK_FOLDER}/prefix)
set(program_build ${WORK_FOLDER}/program)
if(SANITIZE)
  set(sanitize_flags -D CMAKE_C_FLAGS=-fsanitize=${SANITIZE})
endif()

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_FOLDER} --prefix ${prefix})
# Headers that include what is not installed would only fail at a user's.
run(${CMAKE_COMMAND} -S ${PROGRAM_SOURCE} -B ${program_build} -G ${GENERATOR} -D CMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}
    -D CMAKE_C_COMPILER=${C_COMPILER} -D CMAKE_PREFIX_PATH=${prefix} -D PACKAGE_VERSION=${VERSION}
    -D HEADER_FOLDER=${prefix}/include -D README=${README} ${sanitize_flags})
run(${CMAKE_COMMAND} --build ${program_build})
run(${program_build}/program)
run(${program_build}/readme)
