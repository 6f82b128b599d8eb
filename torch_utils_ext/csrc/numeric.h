// Numbers, vectors of them, and the entry of a kernel, for NVRTC and for an ordinary C++ compiler alike.
// Needs no CUDA header: NVRTC alone compiles it. On the host a kernel is a loop over its blocks and threads, so that
// tests run the very index arithmetic and formulas that the GPU will run.
#ifndef TORCH_UTILS_EXT_NUMERIC_H
#define TORCH_UTILS_EXT_NUMERIC_H

#ifdef __CUDACC_RTC__
#define HD __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define ENTRY(threads) extern "C" __global__ void __launch_bounds__(threads)
// Has an address ready in a register; the compiler would rather compute it anew before each predicated access.
#define KEEP(pointer) asm volatile("" : "+l"(pointer))
#define EACH_THREAD(call)                                                                                      \
    {                                                                                                          \
        const Place place = {blockIdx.x, blockIdx.y,  blockIdx.z,  blockDim.x, blockDim.y,                     \
                             blockDim.z, threadIdx.x, threadIdx.y, threadIdx.z};                               \
        call;                                                                                                  \
    }
#else
#include <cmath>
#include <cstring>
#define HD inline
#define UNROLL
#define ENTRY(threads) extern "C" void
#define KEEP(pointer)
#define EACH_THREAD(call)                                                                                      \
    for (u32 z = 0; z < host_grid.z * host_block.z; ++z)                                                       \
        for (u32 y = 0; y < host_grid.y * host_block.y; ++y)                                                   \
            for (u32 x = 0; x < host_grid.x * host_block.x; ++x) {                                             \
                const Size &w = host_block;                                                                    \
                const Place place = {x / w.x, y / w.y, z / w.z, w.x, w.y, w.z, x % w.x, y % w.y, z % w.z};     \
                call;                                                                                          \
            }
#endif

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;

// A thread's place: number of its block, the block's size in threads, number within it.
struct Place { u32 block_x, block_y, block_z, size_x, size_y, size_z, thread_x, thread_y, thread_z; };

#ifndef __CUDACC_RTC__
struct Size { u32 x, y, z; };
static Size host_grid, host_block;
static int host_misaligned;  // accesses that the GPU would refuse
extern "C" void set_launch(const Size* grid, const Size* block) {
    host_grid = *grid, host_block = *block, host_misaligned = 0;
}
extern "C" int count_misaligned() { return host_misaligned; }
#endif

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

// The type that sums are kept in.
template <class T> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };

#ifdef __CUDACC_RTC__
HD float as_float(u32 bits) { return __uint_as_float(bits); }
HD u32 as_bits(float v) { return __float_as_uint(v); }
HD double as_double(u32 low, u32 high) { return __hiloint2double((int)high, (int)low); }
HD void as_bits(double v, u32* w) { w[0] = (u32)__double2loint(v), w[1] = (u32)__double2hiint(v); }
HD u32 mul_high(u32 a, u32 b) { return __umulhi(a, b); }
HD u32 next_half(u32 low, u32 high) { return __funnelshift_r(low, high, 16); }
#else
HD float as_float(u32 bits) { float v; std::memcpy(&v, &bits, 4); return v; }
HD u32 as_bits(float v) { u32 bits; std::memcpy(&bits, &v, 4); return bits; }
HD double as_double(u32 low, u32 high) { const u32 w[2] = {low, high}; double v; std::memcpy(&v, w, 8); return v; }
HD void as_bits(double v, u32* w) { std::memcpy(w, &v, 8); }
HD u32 mul_high(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
HD u32 next_half(u32 low, u32 high) { return (low >> 16) | (high << 16); }
#endif

// float16 and bfloat16 to float and back, round to nearest even. Two at a time fill a 32-bit word, the first one low.
HD float widen(bfloat16 v) { return as_float((u32)v.bits << 16); }

HD u32 bfloat16_bits(float v) {
    const u32 bits = as_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

#ifdef __CUDACC_RTC__
HD float widen(float16 v) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits)); return r; }

HD u32 float16_bits(float v) {
    unsigned short r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}
#else
HD float widen(float16 v) {
    const u32 sign = (u32)(v.bits & 0x8000u) << 16, rest = (u32)(v.bits & 0x7fffu) << 13;
    if ((v.bits & 0x7c00u) == 0x7c00u) return as_float(sign | rest | 0x7f800000u);
    return as_float(sign | as_bits(as_float(rest) * 5.192296858534828e33f));  // times 2^112: the exponents' offset
}

HD u32 float16_bits(float v) {
    const u32 bits = as_bits(v), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fffu;
    if (size >= 0x477ff000u) return sign | 0x7c00u;                                        // 65520 and more: infinite
    if (size < 0x38800000u) return sign | (as_bits(as_float(size) + 0.5f) - 0x3f000000u);  // below 2^-14: subnormal
    return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13);
}
#endif

HD u32 pair_bits(float a, float b, float16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
#else
    return float16_bits(a) | (float16_bits(b) << 16);
#endif
}

HD u32 pair_bits(float a, float b, bfloat16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
#else
    return bfloat16_bits(a) | (bfloat16_bits(b) << 16);
#endif
}

// Number i of those that lie in 32-bit words, as they lie in memory.
template <class T> struct Words {
    static HD float get(const u32* w, int i) {
        const T v = {(unsigned short)(i % 2 ? w[i / 2] >> 16 : w[i / 2] & 0xffffu)};
        return widen(v);
    }
    template <int N> static HD void put(u32* w, const float* v) {
        UNROLL for (int i = 0; i < N; i += 2) w[i / 2] = pair_bits(v[i], i + 1 < N ? v[i + 1] : 0.f, T());
    }
};
template <> struct Words<float> {
    static HD float get(const u32* w, int i) { return as_float(w[i]); }
    template <int N> static HD void put(u32* w, const float* v) {
        UNROLL for (int i = 0; i < N; ++i) w[i] = as_bits(v[i]);
    }
};
template <> struct Words<double> {
    static HD double get(const u32* w, int i) { return as_double(w[2 * i], w[2 * i + 1]); }
    template <int N> static HD void put(u32* w, const double* v) {
        UNROLL for (int i = 0; i < N; ++i) as_bits(v[i], w + 2 * i);
    }
};

// One access of BYTES = 2, 4, 8 or 16 at an address that is a multiple of it.
template <int BYTES> HD void load_bytes(const void* p, u32* w) {
    static_assert(BYTES == 2 || BYTES == 4 || BYTES == 8 || BYTES == 16, "no such access");
#ifdef __CUDACC_RTC__
    if (BYTES == 16) {
        const uint4 v = __ldg((const uint4*)p);
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else if (BYTES == 8) {
        const uint2 v = __ldg((const uint2*)p);
        w[0] = v.x, w[1] = v.y;
    } else if (BYTES == 4) {
        w[0] = __ldg((const u32*)p);
    } else {
        w[0] = __ldg((const unsigned short*)p);
    }
#else
    host_misaligned += (u64)p % BYTES != 0;
    w[0] = 0;
    std::memcpy(w, p, BYTES);
#endif
}

template <int BYTES> HD void store_bytes(void* p, const u32* w) {
    static_assert(BYTES == 2 || BYTES == 4 || BYTES == 8 || BYTES == 16, "no such access");
#ifdef __CUDACC_RTC__
    if (BYTES == 16) *(uint4*)p = make_uint4(w[0], w[1], w[2], w[3]);
    else if (BYTES == 8) *(uint2*)p = make_uint2(w[0], w[1]);
    else if (BYTES == 4) *(u32*)p = w[0];
    else *(unsigned short*)p = (unsigned short)w[0];
#else
    host_misaligned += (u64)p % BYTES != 0;
    std::memcpy(p, w, BYTES);
#endif
}

// How many 32-bit words N numbers of type T fill.
template <class T, int N> struct WordCount { enum { value = (N * (int)sizeof(T) + 3) / 4 }; };

template <class T> HD typename Wide<T>::type load_one(const T* p) {
    u32 w[WordCount<T, 1>::value];
    load_bytes<sizeof(T)>(p, w);
    return Words<T>::get(w, 0);
}

template <class T, int N> HD void store_vector(T* p, const typename Wide<T>::type* v) {
    u32 w[WordCount<T, N>::value];
    Words<T>::template put<N>(w, v);
    store_bytes<N * sizeof(T)>(p, w);
}

#endif
