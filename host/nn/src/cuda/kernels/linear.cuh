// Linear layers: code rows, multiply on the tensor cores, scale.
//
// The product of u8 codes and int8 weights is `mma.sync` with 32-bit sums: exact for every K that a layer may have,
// because 255 * 127 * 66000 < 2^31. 16-bit codes are two planes of bytes, multiplied by the same weights as they pass.
// K is padded with zeros to a multiple of 64, so that every load is 16 bytes wide.

#define CODE_THREADS 256
// Bytes of K in shared memory at a time.
#define DEPTH 64
// A row of them in shared memory, 16 bytes further on so that the eight rows of a fragment lie in different banks.
#define PITCH 80

// Codes of one row a block, as `quantise_row`: plane 0 has the high bytes of 16-bit codes, plane 1 the low ones.
template <int LIMBS>
__device__ __forceinline__ void code_row(
    const float* x,
    const float* prescale,
    int inputs,
    int stride,
    unsigned char* codes,
    float* scales,
    int* zeros) {
    __shared__ float room[CODE_THREADS];
    long long row = blockIdx.x;
    long long plane = (long long)gridDim.x * stride;
    x += row * inputs;
    codes += row * stride;
    auto value = [&](int k) { return prescale ? clean(x[k] * prescale[k]) : clean(x[k]); };
    float lo = 0.0f;
    float hi = 0.0f;
    for (int k = threadIdx.x; k < inputs; k += CODE_THREADS) {
        float v = value(k);
        lo = smaller(lo, v);
        hi = larger(hi, v);
    }
    lo = over_block<CODE_THREADS>(lo, room, Smaller());
    hi = over_block<CODE_THREADS>(hi, room, Larger());
    const int most = LIMBS == 1 ? 255 : 65535;
    float range = hi - lo;
    bool counts = range >= TINY;
    float inverse = counts ? (float)most / range : 0.0f;
    int zero = counts ? min(nearest(-lo * inverse), most) : 0;
    if (threadIdx.x == 0) {
        scales[row] = counts ? range / (float)most : 0.0f;
        zeros[row] = zero;
    }
    for (int k = threadIdx.x; k < stride; k += CODE_THREADS) {
        int code = counts && k < inputs ? max(0, min(most, nearest(value(k) * inverse) + zero)) : 0;
        if (LIMBS == 2) {
            codes[k] = (unsigned char)(code >> 8);
            codes[plane + k] = (unsigned char)code;
        } else {
            codes[k] = (unsigned char)code;
        }
    }
}

extern "C" __global__ void __launch_bounds__(CODE_THREADS) code_u8(
    const float* x, const float* prescale, int inputs, int stride, unsigned char* codes, float* scales, int* zeros) {
    code_row<1>(x, prescale, inputs, stride, codes, scales, zeros);
}

extern "C" __global__ void __launch_bounds__(CODE_THREADS) code_u16(
    const float* x, const float* prescale, int inputs, int stride, unsigned char* codes, float* scales, int* zeros) {
    code_row<2>(x, prescale, inputs, stride, codes, scales, zeros);
}

#ifndef OSTRAKON_EMULATED
// C += A B for a tile of 16 x 8 and a K of 32, by all lanes of a warp.
__device__ __forceinline__ void mma_u8s8(
    int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory, past the registers; zeros where there is nothing.
__device__ __forceinline__ void copy_16(unsigned char* to, const unsigned char* from, bool there) {
    unsigned shared = (unsigned)__cvta_generic_to_shared(to);
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes));
}

__device__ __forceinline__ void end_of_copies() {
    asm volatile("cp.async.commit_group;" ::);
}

// Wait for all copies but those of the last group.
__device__ __forceinline__ void wait_for_copies_before() {
    asm volatile("cp.async.wait_group 1;" ::);
}
#else
__device__ __forceinline__ void copy_16(unsigned char* to, const unsigned char* from, bool there) {
    *(uint4*)to = there ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void end_of_copies() {}
__device__ __forceinline__ void wait_for_copies_before() {}
#endif

// What becomes of the sums of a row and a column: a scaled float in `y`, or the sum itself in `totals` where `y` is null.
template <typename Total>
struct Sink {
    const float* scales;
    const int* zeros;
    const int* row_sum;
    const float* weight_scale;
    const float* bias;
    float* y;
    Total* totals;
    __device__ __forceinline__ void put(long long at, int row, int column, long long total) const {
        if (y) {
            long long centred = total - (long long)zeros[row] * (long long)row_sum[column];
            y[at] = (float)centred * (scales[row] * weight_scale[column]) + bias[column];
        } else {
            totals[at] = (Total)total;
        }
    }
};

// A block has ROWS x COLUMNS results and WARPS_DOWN x WARPS_ACROSS warps, each of which has an equal part of them.
// `codes` is [LIMBS][rows][stride], `weights` is [columns][stride].
template <int LIMBS, int ROWS, int COLUMNS, int WARPS_DOWN, int WARPS_ACROSS, typename To>
__device__ __forceinline__ void multiply(
    const unsigned char* codes, const unsigned char* weights, int rows, int columns, int stride, const To& to) {
    const int THREADS = 32 * WARPS_DOWN * WARPS_ACROSS;
    const int DOWN = ROWS / WARPS_DOWN / 16;
    const int ACROSS = COLUMNS / WARPS_ACROSS / 8;
    const int A = LIMBS * ROWS * PITCH;
    const int STAGE = A + COLUMNS * PITCH;
    __shared__ __align__(16) unsigned char stages[2 * STAGE];
    int lane = threadIdx.x & 31;
    int warp = threadIdx.x >> 5;
    int group = lane >> 2;
    int word = (lane & 3) * 4;
    int down = warp % WARPS_DOWN * (ROWS / WARPS_DOWN);
    int across = warp / WARPS_DOWN * (COLUMNS / WARPS_ACROSS);
    int first_row = blockIdx.y * ROWS;
    int first_column = blockIdx.x * COLUMNS;
    long long plane = (long long)rows * stride;

    auto fetch = [&](int step) {
        unsigned char* stage = stages + (step & 1) * STAGE;
        int from = step * DEPTH;
        for (int i = threadIdx.x; i < (LIMBS * ROWS + COLUMNS) * (DEPTH / 16); i += THREADS) {
            int line = i / (DEPTH / 16);
            int byte = i % (DEPTH / 16) * 16;
            const unsigned char* source;
            bool there;
            if (line < LIMBS * ROWS) {
                int row = first_row + line % ROWS;
                there = row < rows;
                source = codes + line / ROWS * plane + (long long)(there ? row : 0) * stride;
            } else {
                int column = first_column + line - LIMBS * ROWS;
                there = column < columns;
                source = weights + (long long)(there ? column : 0) * stride;
            }
            copy_16(stage + line * PITCH + byte, source + from + byte, there);
        }
        end_of_copies();
    };

    int sums[LIMBS][DOWN][ACROSS][4] = {};
    int steps = stride / DEPTH;
    fetch(0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            fetch(step + 1);
        } else {
            end_of_copies();
        }
        wait_for_copies_before();
        __syncthreads();
        const unsigned char* stage = stages + (step & 1) * STAGE;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 32) {
            unsigned b[ACROSS][2];
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                const unsigned char* at = stage + A + (across + j * 8 + group) * PITCH + k + word;
                b[j][0] = *(const unsigned*)at;
                b[j][1] = *(const unsigned*)(at + 16);
            }
#pragma unroll
            for (int limb = 0; limb < LIMBS; limb++) {
#pragma unroll
                for (int i = 0; i < DOWN; i++) {
                    const unsigned char* at = stage + (limb * ROWS + down + i * 16 + group) * PITCH + k + word;
                    unsigned a0 = *(const unsigned*)at;
                    unsigned a1 = *(const unsigned*)(at + 8 * PITCH);
                    unsigned a2 = *(const unsigned*)(at + 16);
                    unsigned a3 = *(const unsigned*)(at + 8 * PITCH + 16);
#pragma unroll
                    for (int j = 0; j < ACROSS; j++) {
                        mma_u8s8(sums[limb][i][j], a0, a1, a2, a3, b[j][0], b[j][1]);
                    }
                }
            }
        }
        __syncthreads();
    }

    // By way of shared memory, 16 rows at a time, so that neighbouring lanes write neighbouring columns.
    const int WIDTH = COLUMNS / WARPS_ACROSS;
    int* tile = (int*)stages + warp * LIMBS * 16 * WIDTH;
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
#pragma unroll
        for (int limb = 0; limb < LIMBS; limb++) {
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                int* at = tile + (limb * 16 + group) * WIDTH + j * 8 + (lane & 3) * 2;
                at[0] = sums[limb][i][j][0];
                at[1] = sums[limb][i][j][1];
                at[8 * WIDTH] = sums[limb][i][j][2];
                at[8 * WIDTH + 1] = sums[limb][i][j][3];
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int at = lane; at < 16 * WIDTH; at += 32) {
            int row = first_row + down + i * 16 + at / WIDTH;
            int column = first_column + across + at % WIDTH;
            if (row < rows && column < columns) {
                long long total = tile[at];
                if (LIMBS == 2) {
                    total = total * 256 + tile[16 * WIDTH + at];
                }
                to.put((long long)row * columns + column, row, column, total);
            }
        }
        __syncthreads();
    }
}

#define LINEAR(name, Total, THREADS, LIMBS, ROWS, COLUMNS, DOWN, ACROSS)                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) linear_##name(                                               \
        const unsigned char* codes, const unsigned char* weights, int rows, int columns, int stride,                   \
        const float* scales, const int* zeros, const int* row_sum, const float* weight_scale, const float* bias,       \
        float* y, Total* totals) {                                                                                     \
        Sink<Total> sink = {scales, zeros, row_sum, weight_scale, bias, y, totals};                                    \
        multiply<LIMBS, ROWS, COLUMNS, DOWN, ACROSS>(codes, weights, rows, columns, stride, sink);                     \
    }

// Few rows: every warp has all of them.
LINEAR(few_u8, int, 128, 1, 16, 64, 1, 4)
LINEAR(few_u16, long long, 128, 2, 16, 64, 1, 4)
// Many rows.
LINEAR(many_u8, int, 256, 1, 128, 128, 2, 4)
LINEAR(many_u16, long long, 256, 2, 64, 128, 2, 4)
