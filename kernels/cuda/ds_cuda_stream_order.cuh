// The order of kernels in a stream, where one may start before those ahead of it have ended (programmatic
// dependent launch: compute capability 9.0). Its blocks then become resident, and what they do before
// ds_wait_for_stream() is hidden behind the work ahead; without it about a microsecond passes between two
// kernels.
//
// Source: CUDA C++ Programming Guide, "Programmatic Dependent Launch and Synchronization"; PTX ISA,
// "griddepcontrol".
#ifndef DS_CUDA_STREAM_ORDER_CUH
#define DS_CUDA_STREAM_ORDER_CUH

// 0: kernels start in the order of the stream. 1: they start early where the work ahead allows it. 2: they
// allow it to what follows as well, as soon as they themselves compute. All blocks of a kernel have their
// place by then, so what starts early takes none from them.
#ifndef DS_CUDA_EARLY_LAUNCH
#  define DS_CUDA_EARLY_LAUNCH 2
#endif

// Returns when all work ahead in the stream has ended, with what it wrote in sight. Every thread of a kernel
// that ds_launch_early or ds_launch_blocks_early starts calls it, in every block, before it first reads or
// writes global memory: weights and the output too, since work ahead may have updated the one and may still
// read the other. Blocks that would skip it could end early, and with them the kernel that later ones wait
// for. Before it there is room for what needs only the kernel's parameters.
__device__ inline void ds_wait_for_stream() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#  if DS_CUDA_EARLY_LAUNCH == 2
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#  endif
#endif
}

#endif
