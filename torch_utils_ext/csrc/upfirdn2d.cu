// Pad, upsample, FIR-filter and downsample images. Every size that matters to the inner loops is a compile-time macro,
// since a kernel is compiled when it is first asked for: there are no special cases beside the two below.
//
// Tile: a thread computes PX x PY neighbouring outputs (of LANES channels in channels_last, of one plane otherwise)
// from a window of inputs held in registers. Only taps that meet a sample are multiplied: no inserted zeros. A filter
// given by its 1-D taps runs along x, then along y, without leaving the registers. There is no shared memory and no
// barrier: windows of neighbouring threads overlap, and the first-level cache serves the overlap, which costs less
// than a tile's stores, barriers and bank conflicts would; all loads of a window are independent of each other.
// General: one output per thread, everything at run time, for filters too large to unroll.
//
// Instructions per output, counted in the machine code for sm_90, against what an H200 can issue per output while its
// memory moves the bytes at 60 % of its copy bandwidth (4.3 TB/s, 132 processors of 128 lanes at 1.9 GHz):
//   halves, 4x4 taps       contiguous   channels_last   possible at 60 %
//   up = down = 1              27            29                47
//   up 2                       12            12                30
//   down 2                     42            44               116
//   up = down = 1, odd rows    37 (in), 43 (out)               47
//   12 taps, float, up 2       28                              62
//   12 taps, float, down 2    104                             250
// 32 to 100 registers without spilling, so 5 and more blocks of 128 threads fit a processor, with dozens of loads under
// way in each thread. channels_last reads an input 4.4 times through the first-level cache: 23 of its 128 bytes a clock
// at 60 %. These are counts; nothing here has been measured yet.
#include "numeric.h"

struct Image { int width, height; };

// Number of a block along image x and along planes or channels (z). A grid ends at 65535 blocks along z: what is more
// lies beyond the image's `blocks_x` blocks along x.
enum { MAX_BLOCKS_Z = 65535 };
HD void find_block(const Place& p, u32 blocks_x, u32* x, u32* z) {
    *x = p.block_x, *z = p.block_z;
    if (p.block_x >= blocks_x) *x = p.block_x % blocks_x, *z += p.block_x / blocks_x * MAX_BLOCKS_Z;
}

// One axis: P outputs of a thread from TAPS taps with factors UP and DOWN. PHASE = left padding modulo UP.
// Needs P DOWN to be a multiple of UP: then all threads' windows look the same.
template <int TAPS, int UP, int DOWN, int PHASE, int P> struct Axis {
    enum { SIZE = ((P - 1) * DOWN + TAPS - 1 - PHASE) / UP + 1, STEP = P * DOWN / UP, NEXT = UP };
    // The first tap of output i that meets a sample; every UP-th after it does.
    static HD constexpr int first(int i) { return ((PHASE - i * DOWN) % UP + UP) % UP; }
    // The sample of the window that output i meets at such a tap, and the tap at which it meets a sample, if any.
    static HD constexpr int sample(int i, int tap) { return (i * DOWN + tap - PHASE) / UP; }
    static HD constexpr int tap(int i, int sample) { return sample * UP + PHASE - i * DOWN; }
};

// FW x FH taps, reversed unless FLIP: a correlation needs them so. SEPARABLE: f holds the FW = FH taps of one axis.
template <int FW_, int FH_, bool SEPARABLE_, bool FLIP_> struct Filter {
    enum { FW = FW_, FH = FH_, SEPARABLE = SEPARABLE_, TAPS = SEPARABLE_ ? FW_ : FW_ * FH_ };
    template <class A> static HD void load(const float* f, A* taps) {
        UNROLL for (int i = 0; i < TAPS; ++i) taps[FLIP_ ? i : TAPS - 1 - i] = (A)f[i];
    }
};

// Sums of PX x PY outputs of L lanes, fed with the rows of a window.
template <class A, class X, class Y, class F, int PX, int PY, int L> struct Accumulator {
    enum { FW = F::FW, FH = F::FH, SEPARABLE = F::SEPARABLE };
    A taps[F::TAPS];
    A sum[PY][PX][L];
    A gain;  // still to be applied to the sums

    HD void start(const float* f, A gain_) {
        F::load(f, taps);
        gain = gain_;
        if (!SEPARABLE) {
            UNROLL for (int i = 0; i < F::TAPS; ++i) taps[i] *= gain;
            gain = 1;
        }
        UNROLL for (int j = 0; j < PY; ++j)
            UNROLL for (int i = 0; i < PX; ++i)
                UNROLL for (int l = 0; l < L; ++l) sum[j][i][l] = 0;
    }

    HD void add_row(int row, const A (&window)[X::SIZE][L]) {
        A along[PX][L];
        if (SEPARABLE) {
            UNROLL for (int i = 0; i < PX; ++i) {
                UNROLL for (int l = 0; l < L; ++l) along[i][l] = 0;
                add_taps(window, i, taps, along[i]);
            }
        }
        UNROLL for (int j = 0; j < PY; ++j) {
            const int tap = Y::tap(j, row);
            if (tap < 0 || tap >= FH) continue;
            UNROLL for (int i = 0; i < PX; ++i) {
                if (SEPARABLE) {
                    UNROLL for (int l = 0; l < L; ++l) sum[j][i][l] += along[i][l] * taps[tap];
                } else {
                    add_taps(window, i, taps + tap * FW, sum[j][i]);
                }
            }
        }
    }

    HD void add_taps(const A (&window)[X::SIZE][L], int i, const A* row_taps, A* total) {
        UNROLL for (int t = X::first(i); t < FW; t += X::NEXT)
            UNROLL for (int l = 0; l < L; ++l) total[l] += window[X::sample(i, t)][l] * row_taps[t];
    }
};

// Contiguous planes. LOAD and STORE: elements per access. SHIFT: how many elements a window begins after a multiple of
// LOAD when that is the same for all threads (rows are then multiples of LOAD long), otherwise -1.
template <class T, class X, class Y, class F, int PX, int PY, int LOAD, int STORE, int SHIFT> struct Planar {
    typedef typename Wide<T>::type A;
    enum {
        BEFORE = SHIFT >= 0 ? SHIFT : 0,
        LOADS = ((SHIFT >= 0 ? SHIFT : LOAD - 1) + X::SIZE + LOAD - 1) / LOAD,
        BYTES = LOAD * (int)sizeof(T),
        WORDS = WordCount<T, LOADS * LOAD>::value,
        MASKS = WordCount<T, X::SIZE>::value
    };
    const T* x;
    const float* f;
    T* y;
    i64 planes;
    u32 blocks_x;
    Image in, out;
    int first_x, first_y;  // where the window of output 0 begins
    A gain;

    HD void run(const Place& p) const {
        u32 bx, bz;
        find_block(p, blocks_x, &bx, &bz);
        const int tx = bx * p.size_x + p.thread_x, ty = p.block_y * p.size_y + p.thread_y;
        const i64 plane = (i64)bz * p.size_z + p.thread_z;
        if (plane >= planes || tx * PX >= out.width || ty * PY >= out.height) return;
        const int x0 = first_x + tx * (int)X::STEP, y0 = first_y + ty * (int)Y::STEP;
        u32 mask[MASKS];
        if (SHIFT < 0) column_masks(x0, mask);
        Accumulator<A, X, Y, F, PX, PY, 1> total;
        total.start(f, gain);
        const T* begin = x + (plane * in.height + y0) * in.width + x0;
        UNROLL for (int r = 0; r < Y::SIZE; ++r, begin += in.width) {
            u32 words[WORDS];
            load_row((u32)(y0 + r) < (u32)in.height, x0, begin, mask, words);
            A window[X::SIZE][1];
            UNROLL for (int j = 0; j < X::SIZE; ++j) window[j][0] = Words<T>::get(words, BEFORE + j);
            total.add_row(r, window);
        }
        T* target = y + (plane * out.height + ty * PY) * out.width + tx * PX;
        UNROLL for (int j = 0; j < PY; ++j, target += out.width) {
            UNROLL for (int i = 0; i < PX; i += STORE) {
                A v[STORE];
                UNROLL for (int e = 0; e < STORE; ++e) v[e] = total.sum[j][i + e][0] * total.gain;
                if (ty * PY + j < out.height && tx * PX + i < out.width) store_vector<T, STORE>(target + i, v);
            }
        }
    }

    // All ones where the window's element lies inside the image.
    HD void column_masks(int x0, u32* mask) const {
        UNROLL for (int i = 0; i < MASKS; ++i) mask[i] = 0;
        UNROLL for (int j = 0; j < X::SIZE; ++j) {
            const u32 ones = (u32)(x0 + j) < (u32)in.width ? ~0u : 0u;
            if (sizeof(T) == 2) mask[j / 2] |= ones & (j % 2 ? 0xffff0000u : 0xffffu);
            else if (sizeof(T) == 4) mask[j] = ones;
            else mask[2 * j] = mask[2 * j + 1] = ones;
        }
    }

    // The elements of one row from x0 on, zero outside the image, at BEFORE and after; `begin` is where they would lie.
    // Reads whole aligned vectors, and only such as hold an element of the row; the launcher sees to it that they end
    // inside the tensor. With SHIFT given, a vector lies wholly inside a row or wholly outside.
    HD void load_row(bool inside, int x0, const T* begin, const u32* mask, u32* words) const {
        const int shift = SHIFT >= 0 ? SHIFT : (int)((begin - x) & (LOAD - 1));
        const T* source = begin - shift;
        KEEP(source);
        UNROLL for (int i = 0; i < WORDS; ++i) words[i] = 0;
        UNROLL for (int v = 0; v < LOADS; ++v) {
            // column > -LOAD and column < width, of the vector's first element
            if (inside && (u32)(x0 - shift + v * LOAD + LOAD - 1) < (u32)(in.width + LOAD - 1)) {
                if (BYTES > 2) {
                    load_bytes<BYTES>(source + v * LOAD, words + v * BYTES / 4);
                } else {
                    u32 one;
                    load_bytes<2>(source + v, &one);
                    words[v / 2] |= v % 2 ? one << 16 : one;
                }
            }
        }
        if (SHIFT >= 0) return;
        const int unit = sizeof(T) == 8 ? 2 : 1, places = sizeof(T) == 2 ? shift / 2 : shift * unit;
        UNROLL for (int step = LOAD * (int)sizeof(T) / 8; step >= unit; step /= 2)
            UNROLL for (int i = 0; i < WORDS; ++i)
                if (places & step) words[i] = i + step < WORDS ? words[i + step] : 0;
        UNROLL for (int i = 0; i < MASKS; ++i) {
            if (sizeof(T) == 2 && (shift & 1)) words[i] = next_half(words[i], i + 1 < WORDS ? words[i + 1] : 0);
            words[i] &= mask[i];
        }
    }
};

// channels_last: a thread's LANES channels are neighbours in memory, so are those of neighbouring threads; threads go
// along channels (x), image x (y) and image y (z), blocks along image x, image y and channels and images (z).
template <class T, class X, class Y, class F, int PX, int PY, int LANES> struct Interleaved {
    typedef typename Wide<T>::type A;
    enum { BYTES = LANES * (int)sizeof(T), WORDS = WordCount<T, LANES>::value };
    const T* x;
    const float* f;
    T* y;
    i64 images, channels;
    u32 blocks_x;
    Image in, out;
    int first_x, first_y;
    A gain;

    HD void run(const Place& p) const {
        u32 bx, bz;
        find_block(p, blocks_x, &bx, &bz);
        const u32 groups = ((u32)channels / LANES + p.size_x - 1) / p.size_x, image = bz / groups;
        const int tx = bx * p.size_y + p.thread_y, ty = p.block_y * p.size_z + p.thread_z;
        const int pixel = (int)channels, channel = ((bz - image * groups) * p.size_x + p.thread_x) * LANES;
        if (image >= images || channel >= channels || tx * PX >= out.width || ty * PY >= out.height) return;
        const int x0 = first_x + tx * (int)X::STEP, y0 = first_y + ty * (int)Y::STEP;
        Accumulator<A, X, Y, F, PX, PY, LANES> total;
        total.start(f, gain);
        const T* source = x + (((i64)image * in.height + y0) * in.width + x0) * channels + channel;
        UNROLL for (int r = 0; r < Y::SIZE; ++r, source += in.width * channels) {
            A window[X::SIZE][LANES];
            KEEP(source);
            UNROLL for (int j = 0; j < X::SIZE; ++j) {
                u32 words[WORDS];
                UNROLL for (int i = 0; i < WORDS; ++i) words[i] = 0;
                if ((u32)(y0 + r) < (u32)in.height && (u32)(x0 + j) < (u32)in.width)
                    load_bytes<BYTES>(source + j * pixel, words);
                UNROLL for (int l = 0; l < LANES; ++l) window[j][l] = Words<T>::get(words, l);
            }
            total.add_row(r, window);
        }
        T* target = y + (((i64)image * out.height + ty * PY) * out.width + tx * PX) * channels + channel;
        UNROLL for (int j = 0; j < PY; ++j, target += out.width * channels)
            UNROLL for (int i = 0; i < PX; ++i)
                if (ty * PY + j < out.height && tx * PX + i < out.width)
                    store_vector<T, LANES>(target + i * pixel, total.sum[j][i]);
    }
};

template <class T> struct General {
    typedef typename Wide<T>::type A;
    const T* x;
    const float* f;
    T* y;
    i64 images, channels;
    Image in, out, filter, up, down, before;  // before: padding left of and above the image
    bool flipped, channels_last;
    A gain;

    HD void run(const Place& p) const {
        i64 rest = (i64)p.block_x * p.size_x + p.thread_x;
        const i64 number = rest;
        if (number >= images * channels * out.height * out.width) return;
        i64 channel = 0;
        if (channels_last) channel = rest % channels, rest /= channels;
        const int ox = (int)(rest % out.width);
        rest /= out.width;
        const int oy = (int)(rest % out.height);
        rest /= out.height;  // the image in channels_last, otherwise the plane
        const i64 pixel = channels_last ? channels : 1;
        const T* source = x + rest * in.height * in.width * pixel + channel;
        const int left = ox * down.width - before.width, top = oy * down.height - before.height;
        A total = 0;
        for (int ty = first_tap(top, up.height); ty < filter.height; ty += up.height) {
            const int iy = (top + ty) / up.height;
            if (top + ty < 0 || iy >= in.height) continue;
            for (int tx = first_tap(left, up.width); tx < filter.width; tx += up.width) {
                const int ix = (left + tx) / up.width, tap = ty * filter.width + tx;
                if (left + tx < 0 || ix >= in.width) continue;
                const A weight = (A)f[flipped ? tap : filter.width * filter.height - 1 - tap];
                total += load_one(source + ((i64)iy * in.width + ix) * pixel) * weight;
            }
        }
        total *= gain;
        store_vector<T, 1>(y + number, &total);
    }

    // The first tap that meets a sample, for a filter that begins at `position` of the upsampled image.
    static HD int first_tap(int position, int factor) { return (factor - position % factor) % factor; }
};

#ifdef K_NAME
#ifdef K_FILTER_WIDTH
typedef Axis<K_FILTER_WIDTH, K_UP_X, K_DOWN_X, K_PHASE_X, K_OUTPUTS_X> AxisX;
typedef Axis<K_FILTER_HEIGHT, K_UP_Y, K_DOWN_Y, K_PHASE_Y, K_OUTPUTS_Y> AxisY;
typedef Filter<K_FILTER_WIDTH, K_FILTER_HEIGHT, K_SEPARABLE, K_FLIP> Taps;

ENTRY(128) K_NAME(
    const K_SCALAR* x, const float* f, K_SCALAR* y, i64 images, i64 channels, i64 blocks_x, i64 in_w, i64 in_h,
    i64 out_w, i64 out_h, i64 first_x, i64 first_y, double gain) {
#ifdef K_LANES
    typedef Interleaved<K_SCALAR, AxisX, AxisY, Taps, K_OUTPUTS_X, K_OUTPUTS_Y, K_LANES> Task;
    const Task task = {x, f, y, images, channels, (u32)blocks_x, {(int)in_w, (int)in_h}, {(int)out_w, (int)out_h},
                       (int)first_x, (int)first_y, (Task::A)gain};
#else
    typedef Planar<K_SCALAR, AxisX, AxisY, Taps, K_OUTPUTS_X, K_OUTPUTS_Y, K_LOAD, K_STORE, K_SHIFT> Task;
    const Task task = {x, f, y, images * channels, (u32)blocks_x, {(int)in_w, (int)in_h}, {(int)out_w, (int)out_h},
                       (int)first_x, (int)first_y, (Task::A)gain};
#endif
    EACH_THREAD(task.run(place));
}
#else
ENTRY(256) K_NAME(
    const K_SCALAR* x, const float* f, K_SCALAR* y, i64 images, i64 channels, i64 in_w, i64 in_h, i64 out_w, i64 out_h,
    i64 filter_w, i64 filter_h, i64 up_x, i64 up_y, i64 down_x, i64 down_y, i64 left, i64 top, i64 channels_last,
    i64 flipped, double gain) {
    typedef General<K_SCALAR> Task;
    const Task task = {x, f, y, images, channels, {(int)in_w, (int)in_h}, {(int)out_w, (int)out_h},
                       {(int)filter_w, (int)filter_h}, {(int)up_x, (int)up_y}, {(int)down_x, (int)down_y},
                       {(int)left, (int)top}, flipped != 0, channels_last != 0, (Task::A)gain};
    EACH_THREAD(task.run(place));
}
#endif
#endif
