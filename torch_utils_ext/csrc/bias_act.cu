// y = clamp(gain act(x + b)), its gradient and the gradient's gradient, each in one pass over memory.
//
// A block of 256 threads takes a chunk of UNITS x 256 vectors of 16 bytes. All loads of a thread are issued before the
// first is used; neighbouring threads read neighbouring vectors. For a vector of 8 halves, 'lrelu' with bias and clamp
// costs about 130 instructions (counted in the machine code for sm_90), its gradient 110; while its memory moves the 32
// bytes, an H200 can issue some 210 (132 processors, 4 warp instructions a clock, 1.9 GHz, 4.3 TB/s), and for the
// gradient's 48 some 320. The bias is found by two multiplications with reciprocals a vector. Not measured yet.
//
// Compile-time macros: K_SCALAR (element type), K_ACT and K_BIAS (names below), K_ORDER (of the derivative: 0, 1, 2),
// K_CLAMP (0, 1), K_WIDE (0, 1: below), K_VECTOR (elements per access), K_NAME (of the kernel).
#include "numeric.h"

enum { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

// Where a vector's biases come from: there is none; all elements share one; they are neighbours in memory; anything.
enum { BIAS_NONE, BIAS_SHARED, BIAS_ROW, BIAS_ANY };

HD float absolute(float v) { return fabsf(v); }
HD double absolute(double v) { return fabs(v); }
HD float exponential(float v) { return expf(v); }
HD double exponential(double v) { return exp(v); }
HD float exponential_m1(float v) { return expm1f(v); }
HD double exponential_m1(double v) { return expm1(v); }
HD float logarithm_1p(float v) { return log1pf(v); }
HD double logarithm_1p(double v) { return log1p(v); }
HD float hyperbolic_tangent(float v) { return tanhf(v); }
HD double hyperbolic_tangent(double v) { return tanh(v); }

// Constants of "Self-Normalizing Neural Networks" (Klambauer et al. 2017).
template <class A> struct Selu {
    static HD A scale() { return (A)1.0507009873554804934193349852946; }
    static HD A alpha() { return (A)1.6732632423543772848170429916717; }
};

// Comparisons here and below are written so that NaN stays NaN, and as single choices, which become selections rather
// than branches.
template <class A> HD A clamped(A v, A bound) {
    v = v < -bound ? -bound : v;
    return v > bound ? bound : v;
}

// act(t)
template <int ACT, class A> HD A activation(A t, A alpha) {
    switch (ACT) {
        case RELU: return t <= 0 ? (A)0 : t;
        case LRELU: return t * (t > 0 ? (A)1 : alpha);
        case TANH: return hyperbolic_tangent(t);
        case SIGMOID: return 1 / (1 + exponential(-t));
        case ELU: return t > 0 ? t : exponential_m1(t);
        case SELU: return Selu<A>::scale() * (t > 0 ? t : Selu<A>::alpha() * exponential_m1(t));
        case SOFTPLUS: return t > 20 ? t : logarithm_1p(exponential(t));
        case SWISH: return t / (1 + exponential(-t));
        default: return t;
    }
}

// act'(t), from a = act(t), or from t for SWISH.
template <int ACT, class A> HD A slope(A a, A t, A alpha) {
    switch (ACT) {
        case RELU: return a > 0 ? (A)1 : (A)0;
        case LRELU: return a > 0 ? (A)1 : alpha;
        case TANH: return 1 - a * a;
        case SIGMOID: return a * (1 - a);
        case ELU: return a > 0 ? (A)1 : a + 1;
        case SELU: return a > 0 ? Selu<A>::scale() : a + Selu<A>::scale() * Selu<A>::alpha();
        case SOFTPLUS: return -exponential_m1(-a);
        case SWISH: {
            const A s = 1 / (1 + exponential(-t));
            return s * (1 + t * (1 - s));
        }
        default: return 1;
    }
}

// act''(t), likewise.
template <int ACT, class A> HD A curvature(A a, A t) {
    switch (ACT) {
        case TANH: return -2 * a * (1 - a * a);
        case SIGMOID: return a * (1 - a) * (1 - 2 * a);
        case ELU: return a >= 0 ? (A)0 : a + 1;
        case SELU: return a >= 0 ? (A)0 : a + Selu<A>::scale() * Selu<A>::alpha();
        case SOFTPLUS: return -exponential_m1(-a) * exponential(-a);
        case SWISH: {
            const A s = 1 / (1 + exponential(-t));
            return s * (1 - s) * (2 + t * (1 - 2 * s));
        }
        default: return 0;
    }
}

template <class A> struct Constants { A alpha, gain, undo_gain, clamp; };

// One element. first: x, dy or ddx (by ORDER); second: dy (ORDER 2); seen: x for SWISH, otherwise y; bias: of x.
template <int ACT, int ORDER, int CLAMP, class A>
HD A element(A first, A second, A seen, A bias, const Constants<A>& k) {
    if (ORDER == 0) {
        const A y = activation<ACT>(first + bias, k.alpha) * k.gain;
        return CLAMP ? clamped(y, k.clamp) : y;
    }
    const A t = seen + bias;
    const A y = ACT == SWISH ? activation<ACT>(t, k.alpha) * k.gain : seen;
    const A a = y * k.undo_gain;
    const A derivative = k.gain * (ORDER == 1 ? slope<ACT>(a, t, k.alpha) : second * curvature<ACT>(a, t));
    const A dx = first * derivative;
    return CLAMP && absolute(y) >= k.clamp ? (A)0 : dx;
}

// n / d for n < 2^31 as a multiplication: Granlund and Montgomery 1994, with the constants made by the launcher.
struct Divisor { u32 value, factor, shift; };

HD u32 divide(u32 n, const Divisor& d) { return (mul_high(n, d.factor) + n) >> d.shift; }

// Element i has bias (i / step) % size. WIDE: step size may be 2^31 or more.
template <int WIDE> struct BiasIndex {
    i64 step, size;
    Divisor by_step, by_size;

    // A number below 2^31 that stands for `start`, and may have the elements of one block added.
    HD u32 base(i64 start) const {
        if (WIDE) return 0;
        return (u32)(start < 0x7fff0000 ? start : start % (step * size));
    }

    // Bias number of element start + offset, and the element's place within its step.
    HD u32 find(i64 start, u32 base, u32 offset, i64* inside) const {
        if (WIDE) {
            const i64 steps = (start + offset) / step;
            *inside = start + offset - steps * step;
            return (u32)(steps % size);
        }
        const u32 steps = divide(base + offset, by_step);
        *inside = base + offset - steps * by_step.value;
        return steps - divide(steps, by_size) * by_size.value;
    }
};

template <class T, int ACT, int ORDER, int CLAMP, int BIAS, int WIDE, int V> struct BiasAct {
    typedef typename Wide<T>::type A;
    enum {
        UNITS = ORDER == 0 ? 4 : 2,
        THREADS = 256,
        CHUNK = UNITS * THREADS * V,
        SEEN = ORDER > 0 && (ACT != LINEAR || CLAMP),
        WORDS = WordCount<T, V>::value,
        BYTES = V * (int)sizeof(T)
    };
    const T *first, *second, *seen, *b;
    T* out;
    i64 n;
    BiasIndex<WIDE> index;
    Constants<A> k;

    HD void run(const Place& p) const {
        const i64 start = (i64)p.block_x * CHUNK;
        const u32 left = n - start < CHUNK ? (u32)(n - start) : (u32)CHUNK, base = BIAS ? index.base(start) : 0;
        const T *from1 = first + start, *from2 = second + start, *from3 = seen + start;
        T* to = out + start;
        u32 w1[UNITS][WORDS], w2[UNITS][WORDS], w3[UNITS][WORDS];
        UNROLL for (int u = 0; u < UNITS; ++u) {
            const u32 offset = (u * THREADS + p.thread_x) * V;
            if (offset + V > left) continue;
            load_bytes<BYTES>(from1 + offset, w1[u]);
            if (ORDER == 2) load_bytes<BYTES>(from2 + offset, w2[u]);
            if (SEEN) load_bytes<BYTES>(from3 + offset, w3[u]);
        }
        UNROLL for (int u = 0; u < UNITS; ++u) {
            const u32 offset = (u * THREADS + p.thread_x) * V;
            if (offset + V > left) continue;
            A bias[V], y[V];
            biases(start, base, offset, bias);
            UNROLL for (int e = 0; e < V; ++e)
                y[e] = element<ACT, ORDER, CLAMP>(
                    Words<T>::get(w1[u], e), ORDER == 2 ? Words<T>::get(w2[u], e) : (A)0,
                    SEEN ? Words<T>::get(w3[u], e) : (A)0, bias[e], k);
            store_vector<T, V>(to + offset, y);
        }
        // What is left over after the last whole vector. With the other kinds of bias nothing is.
        const u32 rest = left % V, i = left - rest + p.thread_x;
        if (V == 1 || !(BIAS == BIAS_NONE || BIAS == BIAS_ANY) || p.thread_x >= rest) return;
        i64 inside;
        const A bias = BIAS ? load_one(b + index.find(start, base, i, &inside)) : (A)0;
        const A y = element<ACT, ORDER, CLAMP>(
            load_one(from1 + i), ORDER == 2 ? load_one(from2 + i) : (A)0, SEEN ? load_one(from3 + i) : (A)0, bias, k);
        store_vector<T, 1>(to + i, &y);
    }

    HD void biases(i64 start, u32 base, u32 offset, A* bias) const {
        i64 inside = 0;
        u32 channel = BIAS ? index.find(start, base, offset, &inside) : 0;
        u32 row[WORDS];
        if (BIAS == BIAS_ROW) load_bytes<BYTES>(b + channel, row);
        A value = BIAS == BIAS_SHARED || BIAS == BIAS_ANY ? load_one(b + channel) : (A)0;
        UNROLL for (int e = 0; e < V; ++e) {
            bias[e] = BIAS == BIAS_ROW ? Words<T>::get(row, e) : value;
            if (BIAS == BIAS_ANY && e + 1 < V && ++inside == index.step) {
                inside = 0;
                channel = channel + 1 == (u32)index.size ? 0 : channel + 1;
                value = load_one(b + channel);
            }
        }
    }
};

#ifdef K_NAME
ENTRY(256) K_NAME(
    const K_SCALAR* first, const K_SCALAR* second, const K_SCALAR* seen, const K_SCALAR* b, K_SCALAR* out, i64 n,
    i64 step, i64 step_factor, i64 step_shift, i64 size, i64 size_factor, i64 size_shift, double alpha, double gain,
    double undo_gain, double clamp) {
    typedef BiasAct<K_SCALAR, K_ACT, K_ORDER, K_CLAMP, K_BIAS, K_WIDE, K_VECTOR> Task;
    typedef Task::A A;
    // The clamped y was rounded when it was stored: compare with the bound rounded likewise.
    u32 stored[2];
    const A bound = (A)clamp;
    Words<K_SCALAR>::put<1>(stored, &bound);
    const A seen_bound = K_ORDER == 0 || K_ACT == SWISH ? bound : Words<K_SCALAR>::get(stored, 0);
    const Task task = {
        first, second, seen, b, out, n,
        {step, size, {(u32)step, (u32)step_factor, (u32)step_shift}, {(u32)size, (u32)size_factor, (u32)size_shift}},
        {(A)alpha, (A)gain, (A)undo_gain, seen_bound}};
    EACH_THREAD(task.run(place));
}
#endif
