// Scalars that every operation shares: those of `ostrakon_exact::number`, step by step.
//
// Every float operation is rounded by itself: the sources are compiled with -fmad=false, -ftz=false and IEEE division
// and square root, and no instruction that approximates is used.

#define LIMIT 1152921504606846976.0f       // 2^60
#define TINY (1.0f / 1152921504606846976.0f)
#define ROUNDER 12582912.0f                // 1.5 * 2^23
#define ROUNDER_BITS 0x4B400000

__device__ __forceinline__ float clean(float x) {
    x = x > LIMIT ? LIMIT : x;
    x = x < -LIMIT ? -LIMIT : x;
    return x == x ? x : 0.0f;
}

// The nearest integer, ties to even, for |x| <= 2^22.
__device__ __forceinline__ int nearest(float x) {
    return __float_as_int(x + ROUNDER) - ROUNDER_BITS;
}

__device__ __forceinline__ float larger(float a, float b) {
    return b > a ? b : a;
}

__device__ __forceinline__ float smaller(float a, float b) {
    return b < a ? b : a;
}

__device__ __forceinline__ float magnitude(float x) {
    return __uint_as_float(__float_as_uint(x) & 0x7fffffffu);
}

__device__ __forceinline__ float power_of_two(int e) {
    return __uint_as_float((unsigned)(e + 127) << 23);
}

// e^x for x <= 0, as `number::exp_negative`.
__device__ __forceinline__ float exp_negative(float x) {
    x = larger(-86.0f, x);
    float n = x * 1.44269504088896340736f + ROUNDER;
    int exponent = __float_as_int(n) - ROUNDER_BITS;
    n = n - ROUNDER;
    float r = x - n * 0.6933594f;
    r = r - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3982e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    float y = p * (r * r) + r + 1.0f;
    return y * power_of_two(exponent);
}

__device__ __forceinline__ float gelu_one(float x) {
    x = clean(x);
    float z = larger(-4.0f, smaller(4.0f, x * 0.707106781186547524400844362104849039f));
    float s = z * z;
    float p = -2.7261423e-10f;
    p = p * s + 2.7706815e-8f;
    p = p * s + -2.101024e-6f;
    p = p * s + -5.6925065e-5f;
    p = p * s + -7.3499063e-4f;
    p = p * s + -2.9546e-3f;
    p = p * s + -1.6096033e-2f;
    float q = -1.4566072e-5f;
    q = q * s + -2.1337406e-4f;
    q = q * s + -1.682827e-3f;
    q = q * s + -7.373329e-3f;
    q = q * s + -1.426474e-2f;
    float e = larger(-1.0f, smaller(1.0f, z * p / q));
    return (0.5f * x) * (1.0f + e);
}

__device__ __forceinline__ float swiglu_one(float gate, float up) {
    gate = clean(gate);
    up = clean(up);
    float e = exp_negative(-magnitude(gate));
    float share = (gate > 0.0f ? 1.0f : e) / (1.0f + e);
    return (gate * share) * up;
}

// `fixed_unit`: a power of two that brings a row's largest magnitude to 2^22, and its inverse. False for a row that
// counts as zero.
__device__ __forceinline__ bool fixed_unit(float largest, float& to_fixed, float& unit) {
    if (largest < TINY) {
        return false;
    }
    int above = (int)((__float_as_uint(largest) >> 23) & 0xffu) - 126;
    to_fixed = power_of_two(22 - above);
    unit = power_of_two(above - 22);
    return true;
}

// What larger, + and the like make of one value of each thread of a block, known to all of them. Free of order: maxima
// and integer sums. `room` has a place for each thread; THREADS is a power of two.
template <int THREADS, typename T, typename Join>
__device__ __forceinline__ T over_block(T mine, T* room, Join join) {
    int thread = threadIdx.x;
    room[thread] = mine;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) {
            room[thread] = join(room[thread], room[thread + half]);
        }
        __syncthreads();
    }
    T all = room[0];
    __syncthreads();
    return all;
}

struct Larger {
    __device__ __forceinline__ float operator()(float a, float b) const { return larger(a, b); }
};

struct Smaller {
    __device__ __forceinline__ float operator()(float a, float b) const { return smaller(a, b); }
};

struct Plus {
    __device__ __forceinline__ long long operator()(long long a, long long b) const { return a + b; }
};
