// The matrix product of a warp in the emulated CUDA driver: mma_u8s8, which
// is PTX mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32.
//
// For tests only. It shows that a kernel puts its fragments where the PTX
// manual says, as read here; only a GPU shows that the manual was read right.
#include "mma.h"

#include "blocks.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace emulator {
namespace {

constexpr int ROWS = 16, COLUMNS = 8, WORDS = 8;  // words of four bytes, along k

// One is enough: the lanes of a warp bring their fragments, the product is
// made, and every lane takes its results before it can bring the next.
struct alignas(16) Tile {
  unsigned a[ROWS][WORDS];
  unsigned b[WORDS][COLUMNS];
  int product[ROWS][COLUMNS];
} tile;

// A GPU's sums wrap where no .satfinite is asked for.
int wrapping_add(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}

#ifdef __SSE2__

__m128i load(const void* from) { return _mm_load_si128(static_cast<const __m128i*>(from)); }

// Pairs of neighbours in k, of four columns: those of the words' low and high
// halves, each byte widened with its sign.
void widen_columns(const unsigned* words, __m128i* low_pair, __m128i* high_pair) {
  const __m128i bytes = load(words), zero = _mm_setzero_si128();
  const __m128 first = _mm_castsi128_ps(_mm_srai_epi16(_mm_unpacklo_epi8(zero, bytes), 8));
  const __m128 second = _mm_castsi128_ps(_mm_srai_epi16(_mm_unpackhi_epi8(zero, bytes), 8));
  *low_pair = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
  *high_pair = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)));
}

// The processor multiplies pairs of 16-bit numbers and adds their products:
// here a pair of a row, four times, with the pairs of four columns.
template <int Pair>
void add_products(__m128i& sum, __m128i row, __m128i columns) {
  const __m128i pair = _mm_shuffle_epi32(row, _MM_SHUFFLE(Pair, Pair, Pair, Pair));
  sum = _mm_add_epi32(sum, _mm_madd_epi16(pair, columns));
}

void multiply_half(int column) {
  __m128i b[2 * WORDS];
  for (int word = 0; word < WORDS; ++word) {
    widen_columns(&tile.b[word][column], &b[2 * word], &b[2 * word + 1]);
  }
  for (int row = 0; row < ROWS; ++row) {
    __m128i even = _mm_setzero_si128(), odd = _mm_setzero_si128();
    for (int half = 0; half < 2; ++half) {
      const __m128i bytes = load(&tile.a[row][4 * half]);
      const __m128i first = _mm_unpacklo_epi8(bytes, _mm_setzero_si128());
      const __m128i second = _mm_unpackhi_epi8(bytes, _mm_setzero_si128());
      const __m128i* columns = &b[8 * half];
      add_products<0>(even, first, columns[0]);
      add_products<1>(odd, first, columns[1]);
      add_products<2>(even, first, columns[2]);
      add_products<3>(odd, first, columns[3]);
      add_products<0>(even, second, columns[4]);
      add_products<1>(odd, second, columns[5]);
      add_products<2>(even, second, columns[6]);
      add_products<3>(odd, second, columns[7]);
    }
    _mm_store_si128(reinterpret_cast<__m128i*>(&tile.product[row][column]),
                    _mm_add_epi32(even, odd));
  }
}

#else

void multiply_half(int first_column) {
  for (int row = 0; row < ROWS; ++row) {
    for (int column = first_column; column < first_column + COLUMNS / 2; ++column) {
      int sum = 0;
      for (int word = 0; word < WORDS; ++word) {
        for (int shift = 0; shift < 32; shift += 8) {
          const unsigned char a = static_cast<unsigned char>(tile.a[row][word] >> shift);
          const signed char b = static_cast<signed char>(tile.b[word][column] >> shift);
          sum += a * b;
        }
      }
      tile.product[row][column] = sum;
    }
  }
}

#endif

}  // namespace

void multiply_fragments() {
  multiply_half(0);
  multiply_half(COLUMNS / 2);
}

}  // namespace emulator

void mma_u8s8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
              unsigned b0, unsigned b1) {
  using namespace emulator;
  const unsigned at = lane(), group = at >> 2, quarter = at & 3;
  tile.a[group][quarter] = a0;
  tile.a[group + 8][quarter] = a1;
  tile.a[group][quarter + 4] = a2;
  tile.a[group + 8][quarter + 4] = a3;
  tile.b[quarter][group] = b0;
  tile.b[quarter + 4][group] = b1;
  meet_warp();
  c[0] = wrapping_add(c[0], tile.product[group][2 * quarter]);
  c[1] = wrapping_add(c[1], tile.product[group][2 * quarter + 1]);
  c[2] = wrapping_add(c[2], tile.product[group + 8][2 * quarter]);
  c[3] = wrapping_add(c[3], tile.product[group + 8][2 * quarter + 1]);
}
