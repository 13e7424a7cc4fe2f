# The library of kernels by itself: the extension module links it, and so does the sanitizers' stress test.
# Each instruction set has translation units of its own, which alone get its flags; the choice is made at
# run time. Products and sums are never contracted, so that every build rounds alike.
include(CheckCXXCompilerFlag)
find_package(Threads REQUIRED)

set(NEARFIELD_CSRC "${CMAKE_CURRENT_LIST_DIR}/../src/nearfield/kernels/cpu/csrc")
# GCC 12 warns of its own header.
set(NEARFIELD_QUIET -Wno-uninitialized -Wno-maybe-uninitialized)
set(NEARFIELD_AVX2 -mavx2 -mfma ${NEARFIELD_QUIET})
set(NEARFIELD_AVX512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
                     -mprefer-vector-width=512 ${NEARFIELD_QUIET})

add_library(nearfield_kernels STATIC)
target_sources(nearfield_kernels PRIVATE
  "${NEARFIELD_CSRC}/attention_run.cpp" "${NEARFIELD_CSRC}/dense.cpp" "${NEARFIELD_CSRC}/embed.cpp"
  "${NEARFIELD_CSRC}/decoder.cpp"
  "${NEARFIELD_CSRC}/limits.cpp" "${NEARFIELD_CSRC}/memory.cpp" "${NEARFIELD_CSRC}/pack.cpp"
  "${NEARFIELD_CSRC}/pool.cpp" "${NEARFIELD_CSRC}/round.cpp" "${NEARFIELD_CSRC}/runtime.cpp"
  "${NEARFIELD_CSRC}/sample.cpp" "${NEARFIELD_CSRC}/scalar.cpp" "${NEARFIELD_CSRC}/scalar_attention.cpp"
  "${NEARFIELD_CSRC}/scalar_dense.cpp" "${NEARFIELD_CSRC}/scalar_floats.cpp")
target_include_directories(nearfield_kernels PUBLIC "${NEARFIELD_CSRC}")
target_compile_features(nearfield_kernels PUBLIC cxx_std_17)
target_compile_options(nearfield_kernels PRIVATE -O3 -ffp-contract=off -Wall -Wextra)
target_link_libraries(nearfield_kernels PUBLIC Threads::Threads)
set_target_properties(nearfield_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)

check_cxx_compiler_flag("-mavx512vnni" NEARFIELD_HAS_AVX512VNNI)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NEARFIELD_HAS_AVX512VNNI)
  target_compile_definitions(nearfield_kernels PUBLIC NEARFIELD_X86)
  set(NEARFIELD_AVX512_SOURCES
    "${NEARFIELD_CSRC}/avx512.cpp" "${NEARFIELD_CSRC}/avx512_quantize.cpp"
    "${NEARFIELD_CSRC}/avx512_rows.cpp" "${NEARFIELD_CSRC}/avx512_groups.cpp"
    "${NEARFIELD_CSRC}/avx512_attention.cpp" "${NEARFIELD_CSRC}/avx512_dense.cpp"
    "${NEARFIELD_CSRC}/avx512_floats.cpp")
  set(NEARFIELD_AVX2_SOURCES
    "${NEARFIELD_CSRC}/avx2.cpp" "${NEARFIELD_CSRC}/avx2_attention.cpp" "${NEARFIELD_CSRC}/avx2_dense.cpp"
    "${NEARFIELD_CSRC}/avx2_floats.cpp")
  target_sources(nearfield_kernels PRIVATE ${NEARFIELD_AVX2_SOURCES} ${NEARFIELD_AVX512_SOURCES})
  set_source_files_properties(${NEARFIELD_AVX2_SOURCES} PROPERTIES COMPILE_OPTIONS "${NEARFIELD_AVX2}")
  set_source_files_properties(${NEARFIELD_AVX512_SOURCES} PROPERTIES COMPILE_OPTIONS "${NEARFIELD_AVX512}")

  check_cxx_compiler_flag("-mavx512bf16" NEARFIELD_HAS_AVX512BF16)
  if(NEARFIELD_HAS_AVX512BF16)
    target_compile_definitions(nearfield_kernels PUBLIC NEARFIELD_AVX512BF16)
    target_sources(nearfield_kernels PRIVATE "${NEARFIELD_CSRC}/avx512bf16.cpp")
    set_source_files_properties("${NEARFIELD_CSRC}/avx512bf16.cpp" PROPERTIES
                                COMPILE_OPTIONS "${NEARFIELD_AVX512};-mavx512bf16")
  endif()

  check_cxx_compiler_flag("-mamx-int8" NEARFIELD_HAS_AMX)
  if(NEARFIELD_HAS_AMX AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
    target_compile_definitions(nearfield_kernels PUBLIC NEARFIELD_AMX)
    set(NEARFIELD_AMX_SOURCES "${NEARFIELD_CSRC}/amx.cpp" "${NEARFIELD_CSRC}/amx_rows.cpp" "${NEARFIELD_CSRC}/amx_groups.cpp"
                              "${NEARFIELD_CSRC}/amx_attention.cpp" "${NEARFIELD_CSRC}/amx_dense.cpp")
    target_sources(nearfield_kernels PRIVATE ${NEARFIELD_AMX_SOURCES})
    set_source_files_properties(${NEARFIELD_AMX_SOURCES} PROPERTIES
                                COMPILE_OPTIONS "${NEARFIELD_AVX512};-mavx512bf16;-mamx-tile;-mamx-int8;-mamx-bf16")
  endif()
endif()
