// Attention: queries, keys and values coded, then three passes over the keys of each query.
//
// The scores of a pass are computed anew in the next one instead of being kept: they are exact, so they are the same,
// and there is no memory that grows with the square of a sequence.

#define ATTEND_THREADS 128
// Keys in shared memory at a time: one a thread.
#define KEYS ATTEND_THREADS
// Widest head.
#define HEAD 128
// Keys whose products with values add up in 32 bits: 32767 * 1023 * 64 < 2^31.
#define VALUES_CHUNK 64

#define QUERY_KEY_CODE 4095.0f
#define VALUE_CODE 1023.0f
#define WEIGHT_CODE 32767.0f
#define DENOMINATOR_ONE 1048576.0f
#define TINY_WEIGHT 7.888609e-31f

// Where the keys and values of a sequence lie, and which rows of the call are its own.
struct Sequence {
    short* keys;
    float* key_scales;
    short* values;
    float* value_scales;
    long long start;
    long long rows;
    // Rows of earlier calls, whose keys and values are there already.
    long long before;
};

__device__ __forceinline__ void code_head(const float* v, int width, float most, short* codes, float* scale) {
    float largest = 0.0f;
    for (int k = 0; k < width; k++) {
        largest = larger(largest, magnitude(clean(v[k])));
    }
    bool counts = !(largest < TINY);
    float inverse = counts ? most / largest : 0.0f;
    *scale = counts ? largest / most : 0.0f;
    for (int k = 0; k < width; k++) {
        codes[k] = (short)(counts ? nearest(clean(v[k]) * inverse) : 0);
    }
}

// A head of queries, of keys or of values of one row a thread. `owner` is the sequence of each row.
extern "C" __global__ void __launch_bounds__(ATTEND_THREADS) code_heads(
    const float* qkv,
    const Sequence* sequences,
    const long long* owner,
    long long rows,
    int heads,
    int kv_heads,
    int width,
    short* queries,
    float* query_scales) {
    int all = heads + 2 * kv_heads;
    long long i = (long long)blockIdx.x * ATTEND_THREADS + threadIdx.x;
    if (i >= rows * all) {
        return;
    }
    long long row = i / all;
    int head = (int)(i - row * all);
    const float* v = qkv + i * width;
    if (head < heads) {
        code_head(v, width, QUERY_KEY_CODE, queries + (row * heads + head) * width, query_scales + row * heads + head);
        return;
    }
    Sequence sequence = sequences[owner[row]];
    long long at = (sequence.before + row - sequence.start) * kv_heads;
    if (head < heads + kv_heads) {
        at += head - heads;
        code_head(v, width, QUERY_KEY_CODE, sequence.keys + at * width, sequence.key_scales + at);
    } else {
        at += head - heads - kv_heads;
        code_head(v, width, VALUE_CODE, sequence.values + at * width, sequence.value_scales + at);
    }
}

// What larger and + make of each query's value in each thread.
template <int QUERIES, typename T, typename Join>
__device__ __forceinline__ void over_threads(T (&mine)[QUERIES], T* room, Join join) {
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        mine[q] = over_block<ATTEND_THREADS>(mine[q], room, join);
    }
}

// Up to QUERIES neighbouring queries of one head a block. `tiles` has a sequence and its first query, [tiles][2].
template <int QUERIES>
__device__ __forceinline__ void attend(
    const Sequence* sequences,
    const long long* tiles,
    const short* queries,
    const float* query_scales,
    int heads,
    int kv_heads,
    int width,
    float inverse_root,
    int causal,
    float* y) {
    __shared__ unsigned key_words[KEYS * (HEAD / 2 + 1)];
    __shared__ unsigned query_words[QUERIES * (HEAD / 2)];
    __shared__ int weights[QUERIES][KEYS];
    __shared__ long long room[ATTEND_THREADS];
    int thread = threadIdx.x;
    int head = blockIdx.y;
    int kv_head = head / (heads / kv_heads);
    Sequence sequence = sequences[tiles[2 * blockIdx.x]];
    long long first = tiles[2 * blockIdx.x + 1];
    int count = (int)(sequence.rows - first < QUERIES ? sequence.rows - first : QUERIES);
    long long keys_in_all = sequence.before + (causal ? first + count : sequence.rows);
    // Two codes a word, an odd one with a zero; an odd number of words from key to key, so that threads meet no bank twice.
    int words = (width + 1) / 2;
    int pitch = words | 1;

    auto pair = [&](const short* codes, int w) {
        unsigned low = (unsigned short)codes[2 * w];
        unsigned high = 2 * w + 1 < width ? (unsigned short)codes[2 * w + 1] : 0;
        return high << 16 | low;
    };
    float row_scale[QUERIES];
    long long visible[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        long long row = sequence.start + first + (q < count ? q : 0);
        row_scale[q] = query_scales[row * heads + head] * inverse_root;
        // A query that is not there sees nothing.
        visible[q] = q < count ? (causal ? sequence.before + first + q + 1 : keys_in_all) : 0;
        for (int w = thread; w < words; w += ATTEND_THREADS) {
            query_words[q * (HEAD / 2) + w] = pair(queries + (row * heads + head) * width, w);
        }
    }

    // The keys from `from` on into shared memory, and the scores of this thread's key with every query.
    auto scores = [&](long long from, float (&score)[QUERIES]) {
        __syncthreads();
        int there = (int)(keys_in_all - from < KEYS ? keys_in_all - from : KEYS);
        for (int i = thread; i < there * words; i += ATTEND_THREADS) {
            int key = i / words;
            int w = i - key * words;
            key_words[key * pitch + w] = pair(sequence.keys + ((from + key) * kv_heads + kv_head) * width, w);
        }
        __syncthreads();
        if (thread >= there) {
            return;
        }
        int dots[QUERIES] = {};
        for (int w = 0; w < words; w++) {
            unsigned key = key_words[thread * pitch + w];
            int low = (short)key;
            int high = (int)key >> 16;
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                unsigned query = query_words[q * (HEAD / 2) + w];
                dots[q] += low * (int)(short)query + high * ((int)query >> 16);
            }
        }
        float key_scale = sequence.key_scales[(from + thread) * kv_heads + kv_head];
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            score[q] = (float)dots[q] * (row_scale[q] * key_scale);
        }
    };

    float top[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        top[q] = -3.40282347e+38f;
    }
    for (long long from = 0; from < keys_in_all; from += KEYS) {
        float score[QUERIES];
        scores(from, score);
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            if (from + thread < visible[q]) {
                top[q] = larger(top[q], score[q]);
            }
        }
    }
    over_threads<QUERIES>(top, (float*)room, Larger());

    long long denominator[QUERIES] = {};
    float heaviest[QUERIES] = {};
    for (long long from = 0; from < keys_in_all; from += KEYS) {
        float score[QUERIES];
        scores(from, score);
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            if (from + thread < visible[q]) {
                float e = exp_negative(score[q] - top[q]);
                float scale = sequence.value_scales[(from + thread) * kv_heads + kv_head];
                denominator[q] += nearest(e * DENOMINATOR_ONE);
                heaviest[q] = larger(heaviest[q], e * scale);
            }
        }
    }
    over_threads<QUERIES>(denominator, room, Plus());
    over_threads<QUERIES>(heaviest, (float*)room, Larger());

    // Threads share the columns of a head; where a head is narrow, groups of them share the queries.
    int groups = ATTEND_THREADS / width;
    int group = thread / width;
    int column = thread - group * width;
    long long totals[QUERIES] = {};
    for (long long from = 0; from < keys_in_all; from += KEYS) {
        float score[QUERIES];
        scores(from, score);
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            int weight = 0;
            if (from + thread < visible[q] && !(heaviest[q] < TINY_WEIGHT)) {
                float e = exp_negative(score[q] - top[q]);
                float scale = sequence.value_scales[(from + thread) * kv_heads + kv_head];
                weight = nearest((e * scale) * (WEIGHT_CODE / heaviest[q]));
            }
            weights[q][thread] = weight;
        }
        __syncthreads();
        int there = (int)(keys_in_all - from < KEYS ? keys_in_all - from : KEYS);
        for (int chunk = 0; chunk < there && group < groups; chunk += VALUES_CHUNK) {
            int sums[QUERIES] = {};
            int end = min(there, chunk + VALUES_CHUNK);
            for (int key = chunk; key < end; key++) {
                int value = sequence.values[((from + key) * kv_heads + kv_head) * width + column];
#pragma unroll
                for (int q = 0; q < QUERIES; q++) {
                    if (q % groups == group) {
                        sums[q] += weights[q][key] * value;
                    }
                }
            }
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                totals[q] += sums[q];
            }
        }
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        if (q < count && group < groups && q % groups == group) {
            float scale = (heaviest[q] / WEIGHT_CODE) * (DENOMINATOR_ONE / (float)denominator[q]);
            long long row = sequence.start + first + q;
            y[(row * heads + head) * width + column] = heaviest[q] < TINY_WEIGHT ? 0.0f : (float)totals[q] * scale;
        }
    }
}

#define ATTEND(QUERIES)                                                                                                \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS) attend_##QUERIES(                                     \
        const Sequence* sequences, const long long* tiles, const short* queries, const float* query_scales, int heads, \
        int kv_heads, int width, float inverse_root, int causal, float* y) {                                           \
        attend<QUERIES>(                                                                                               \
            sequences, tiles, queries, query_scales, heads, kv_heads, width, inverse_root, causal, y);                 \
    }

ATTEND(1)
ATTEND(4)
