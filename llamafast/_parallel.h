/* Parallel calls on the OpenMP threads that llama.cpp's decode leaves spinning; sequential calls without OpenMP. */
#ifndef LLAMAFAST_PARALLEL_H
#define LLAMAFAST_PARALLEL_H

#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#define PARALLEL_AVAILABLE 1
#else
#define PARALLEL_AVAILABLE 0
#endif

typedef void (*parallel_call)(void* data, int32_t item, int32_t thread);

/* call(data, item, thread) for each item < n, 0 <= thread < n_threads. n_threads must be the decode's number of
* threads: another number would stop or start threads. */
static void parallel_for(int32_t n, int32_t n_threads, parallel_call call, void* data) {
    int32_t i;
#ifdef _OPENMP
    if (n_threads > 1) {
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 1)
        for (i = 0; i < n; i++) call(data, i, omp_get_thread_num());
        return;
    }
#endif
    for (i = 0; i < n; i++) call(data, i, 0);
}

#endif
