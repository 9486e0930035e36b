// Operations on rows and on elements.

#define ROW_THREADS 256

// Each element by itself, up to `n` of them.
#define EACH(i, n)                                                               \
    long long i = (long long)blockIdx.x * ROW_THREADS + threadIdx.x;             \
    if (i >= (n)) {                                                              \
        return;                                                                  \
    }

extern "C" __global__ void __launch_bounds__(ROW_THREADS) add(const float* a, const float* b, long long n, float* y) {
    EACH(i, n)
    y[i] = clean(a[i]) + clean(b[i]);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) gelu(const float* x, long long n, float* y) {
    EACH(i, n)
    y[i] = gelu_one(x[i]);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) swiglu(const float* x, long long n, int width, float* y) {
    EACH(i, n)
    long long row = i / width;
    const float* gates = x + row * 2 * width;
    long long column = i - row * width;
    y[i] = swiglu_one(gates[column], gates[width + column]);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    embedding(const signed char* table, const float* scale, const int* ids, long long n, int width, float* y) {
    EACH(i, n)
    long long token = i / width;
    long long id = ids[token];
    y[i] = (float)table[id * width + (i - token * width)] * scale[id];
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) rotary(
    const float* table, const int* positions, const float* x, long long n, int columns, int turned, int width, float* y) {
    EACH(i, n)
    long long row = i / columns;
    int column = (int)(i - row * columns);
    if (column >= turned) {
        y[i] = clean(x[i]);
        return;
    }
    const float* pair = x + row * columns + (column & ~1);
    float a = clean(pair[0]);
    float b = clean(pair[1]);
    const float* angle = table + (long long)positions[row] * width + (column % width & ~1);
    float cosine = angle[0];
    float sine = angle[1];
    y[i] = column & 1 ? a * sine + b * cosine : a * cosine - b * sine;
}

// Row `from[r]` of `x` as row r of `y`, cleaned.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    gather(const float* x, const long long* from, long long n, int width, float* y) {
    EACH(i, n)
    long long row = i / width;
    y[i] = clean(x[from[row] * width + (i - row * width)]);
}

// The integer sums of a row in the unit of its largest magnitude. False, for all threads alike, if it counts as zero.
struct Sums {
    long long sum;
    long long squares;
    float unit;
};

template <typename Value>
__device__ __forceinline__ bool sums_of(int width, Value value, Sums& sums) {
    __shared__ float floats[ROW_THREADS];
    __shared__ long long integers[ROW_THREADS];
    float largest = 0.0f;
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        largest = larger(largest, magnitude(value(k)));
    }
    largest = over_block<ROW_THREADS>(largest, floats, Larger());
    float to_fixed;
    if (!fixed_unit(largest, to_fixed, sums.unit)) {
        return false;
    }
    long long sum = 0;
    long long squares = 0;
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        long long fixed = nearest(value(k) * to_fixed);
        sum += fixed;
        squares += fixed * fixed;
    }
    sums.sum = over_block<ROW_THREADS>(sum, integers, Plus());
    sums.squares = over_block<ROW_THREADS>(squares, integers, Plus());
    return true;
}

// f64(width * squares - sum^2): the integer has up to 80 bits, the conversion rounds once. Both halves of it are exact
// in f64, so their sum is the one rounding.
__device__ __forceinline__ double spread(const Sums& sums, int width) {
    unsigned long long n = (unsigned long long)width;
    unsigned long long squares = (unsigned long long)sums.squares;
    unsigned long long sum = (unsigned long long)(sums.sum < 0 ? -sums.sum : sums.sum);
    unsigned long long low = n * squares;
    unsigned long long high = __umul64hi(n, squares);
    unsigned long long less = sum * sum;
    high -= __umul64hi(sum, sum) + (low < less ? 1 : 0);
    low -= less;
    double upper = (double)(high << 32 | low >> 32);
    double lower = (double)(unsigned)low;
    return upper * 4294967296.0 + lower;
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) layer_norm(
    const float* x, const float* residual, const float* gain, const float* bias, float epsilon, int width, float* y) {
    long long start = (long long)blockIdx.x * width;
    x += start;
    y += start;
    auto value = [&](int k) { return residual ? clean(x[k]) + clean(residual[start + k]) : clean(x[k]); };
    Sums sums;
    if (!sums_of(width, value, sums)) {
        for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
            y[k] = bias[k];
        }
        return;
    }
    double n = (double)width;
    double unit = (double)sums.unit;
    float mean = (float)((double)sums.sum / n * unit);
    double variance = spread(sums, width) / (n * n) * unit * unit;
    float r = (float)(1.0 / sqrt(variance + (double)epsilon));
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        y[k] = ((value(k) - mean) * r) * gain[k] + bias[k];
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    rms_norm(const float* x, const float* gain, float epsilon, int width, float* y) {
    long long start = (long long)blockIdx.x * width;
    x += start;
    y += start;
    auto value = [&](int k) { return clean(x[k]); };
    Sums sums;
    bool counts = sums_of(width, value, sums);
    float r = 0.0f;
    if (counts) {
        double unit = (double)sums.unit;
        double mean = (double)sums.squares / (double)width * unit * unit;
        r = (float)(1.0 / sqrt(mean + (double)epsilon));
    }
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        y[k] = counts ? (value(k) * r) * gain[k] : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) l2_normalise(const float* x, int width, float* y) {
    long long start = (long long)blockIdx.x * width;
    x += start;
    y += start;
    auto value = [&](int k) { return clean(x[k]); };
    Sums sums;
    bool counts = sums_of(width, value, sums);
    float r = counts ? (float)(1.0 / (sqrt((double)sums.squares) * (double)sums.unit)) : 0.0f;
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        y[k] = counts ? value(k) * r : 0.0f;
    }
}

// The mean of the rows of each sequence: rows `starts[s]` to `starts[s + 1]`.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    mean_pool(const float* x, const long long* starts, int width, float* y) {
    __shared__ float floats[ROW_THREADS];
    long long first = starts[blockIdx.x];
    long long rows = starts[blockIdx.x + 1] - first;
    x += first * width;
    y += (long long)blockIdx.x * width;
    float largest = 0.0f;
    for (long long i = threadIdx.x; i < rows * width; i += ROW_THREADS) {
        largest = larger(largest, magnitude(clean(x[i])));
    }
    largest = over_block<ROW_THREADS>(largest, floats, Larger());
    float to_fixed = 0.0f, unit = 0.0f;
    bool counts = fixed_unit(largest, to_fixed, unit);
    for (int k = threadIdx.x; k < width; k += ROW_THREADS) {
        long long sum = 0;
        for (long long row = 0; counts && row < rows; row++) {
            sum += nearest(clean(x[row * width + k]) * to_fixed);
        }
        y[k] = counts ? (float)((double)sum / (double)rows * (double)unit) : 0.0f;
    }
}
