// The two kinds of layers of LeNet, for one kind of number (REAL).
//
// Once it is known which position wins each 2x2 maximum and which ReLUs are open, a layer is
// bilinear: z = w * x. A gradient needs two more sums of the same products, by weights (g * x) and
// by inputs (w * g); the tangent of each is two of its kind, (dw * x) + (w * dx). So `outputs`,
// `weights` and `inputs` are all that a gradient step and its reverse need. Those of a convolution
// visit winners only, a quarter of the positions.
//
// An image is [row][column][channel]: the five rows of a patch are neighbours in memory.

#pragma once
#include <algorithm>
#include <cstdint>

#define UNROLL _Pragma("GCC unroll 16")

using real = REAL;

#ifdef __AVX512F__
constexpr int register_bytes = 64;
#else
constexpr int register_bytes = 32;
#endif
constexpr int widest = register_bytes / sizeof(real);

template <int n>
struct Lanes {
  typedef real type __attribute__((vector_size(n * sizeof(real)), aligned(alignof(real))));
};

template <int n>  // n neighbours in memory
typename Lanes<n>::type& at(const real* p) {
  return *(typename Lanes<n>::type*)p;
}

template <int n>
real total(typename Lanes<n>::type a) {
  if constexpr (n == 1) return a[0];
  else return total<n / 2>(at<n / 2>((real*)&a) + at<n / 2>((real*)&a + n / 2));
}

// For n images; won: where in x the winning patch of each output begins.
struct Layer {
  virtual void forward(const real* x, real* z, uint16_t* won, int n) const = 0;
  // z += w * x, and the biases where there are any
  virtual void outputs(const real* x, const uint16_t* won, real* z, int n, bool bias) const = 0;
  // w += g * x, and the biases' slopes
  virtual void weights(const real* g, const real* x, const uint16_t* won, real* w, int n,
                       bool bias) const = 0;
  // x += w * g
  virtual void inputs(const real* g, const uint16_t* won, real* x, int n) const = 0;
};

// `out` filters of 5x5, the largest of 2x2 positions, ReLU: [side][side][in] -> [windows][out], or
// [out][windows] (planes) as the fully connected layer behind reads them.
template <int side, int in, int out, bool planes>
struct Convolution : Layer {
  static constexpr int positions = side - 4, across = positions / 2, windows = across * across;
  static constexpr int row = 5 * in, stride = side * in, taps = 5 * row;
  static constexpr int parameters = out * (taps + 1), from = side * stride, to = out * windows;
  // a row of a filter is `parts` registers, what all filters give at a position is depth / group
  static constexpr int lanes = row <= 8 ? 8 : widest, parts = (row + lanes - 1) / lanes;
  static constexpr int group = out <= 8 ? 8 : widest, depth = (out + group - 1) / group * group;
  static constexpr int block = positions == 28 ? 14 : register_bytes == 64 ? 10 : 5;
  using Row = typename Lanes<lanes>::type;
  using Group = typename Lanes<group>::type;
  using Rows = real[out][5][parts * lanes];

  Rows rows = {};  // 0 at the end of each row
  real columns[taps][depth] = {}, biases[depth] = {};

  explicit Convolution(const real* w) {
    std::copy_n(w + out * taps, out, biases);
    for (int o = 0; o < out; o++)
      each_tap([&](int k, int r) { columns[k * row + r][o] = rows[o][k][r] = *w++; });
  }

  // The row of a patch and where in it, in the order of theta.
  template <class Action>
  static void each_tap(Action action) {
    for (int c = 0; c < in; c++)
      for (int k = 0; k < 5; k++)
        for (int j = 0; j < 5; j++) action(k, j * in + c);
  }

  // The row of a patch, the register of that row, and where in x it begins.
  template <class Action>
  static void each_part(Action action) {
    UNROLL for (int k = 0; k < 5; k++)
      UNROLL for (int p = 0; p < parts; p++) action(k, p, k * stride + p * lanes);
  }

  static constexpr int place(int window, int o) {
    return planes ? o * windows + window : window * out + o;
  }

  void forward(const real* x, real* __restrict z, uint16_t* __restrict won, int n) const override {
    real y[2][positions][depth];
    for (int image = 0; image < n; image++, x += from, z += to, won += to)
      for (int i = 0; i < across; i++) {
        for (int q = 0; q < 2 * positions; q += block)
          convolve(x + (2 * i + q / positions) * stride + q % positions * in, y[0][q]);
        for (int j = 0; j < across; j++)
          for (int o = 0; o < depth; o += group) {
            Group top = at<group>(y[0][2 * j] + o), shut = {};
            auto best = top < top;  // 0
            UNROLL for (int q = 1; q < 4; q++) {
              Group other = at<group>(y[q / 2][2 * j + q % 2] + o);
              auto larger = other > top;
              top = larger ? other : top;
              best = (larger & (q / 2 * stride + q % 2 * in)) | (~larger & best);
            }
            top = top < shut ? shut : top;
            for (int k = 0; k < std::min(group, out - o); k++) {
              z[place(i * across + j, o + k)] = top[k];
              won[place(i * across + j, o + k)] = 2 * i * stride + 2 * j * in + best[k];
            }
          }
      }
  }

  // All filters at `block` neighbouring positions, with sums that stay in registers.
  void convolve(const real* x, real* y) const {
    Group sum[block][depth / group];
    UNROLL for (int j = 0; j < block; j++)
      UNROLL for (int p = 0; p < depth / group; p++) sum[j][p] = at<group>(biases + p * group);
    for (int k = 0; k < 5; k++)
      UNROLL for (int r = 0; r < row; r++)
        UNROLL for (int j = 0; j < block; j++)
          UNROLL for (int p = 0; p < depth / group; p++)
            sum[j][p] += x[k * stride + j * in + r] * at<group>(columns[k * row + r] + p * group);
    UNROLL for (int j = 0; j < block; j++)
      UNROLL for (int p = 0; p < depth / group; p++)
        at<group>(y + j * depth + p * group) = sum[j][p];
  }

  void outputs(const real* x, const uint16_t* won, real* __restrict z, int n,
               bool bias) const override {
    for (int image = 0; image < n; image++, x += from, z += to, won += to)
      for (int o = 0; o < out; o++)
        for (int s = 0; s < windows; s++) {
          const real* patch = x + won[place(s, o)];
          Row sum = {};
          each_part([&](int k, int p, int i) {
            sum += at<lanes>(rows[o][k] + p * lanes) * at<lanes>(patch + i);
          });
          z[place(s, o)] += total<lanes>(sum) + bias * biases[o];
        }
  }

  void weights(const real* g, const real* x, const uint16_t* won, real* w, int n,
               bool bias) const override {
    Rows sums = {};
    for (int image = 0; image < n; image++, x += from, g += to, won += to)
      for (int o = 0; o < out; o++) {
        Row sum[5][parts];
        real slopes = 0;
        each_part([&](int k, int p, int) { sum[k][p] = at<lanes>(sums[o][k] + p * lanes); });
        for (int s = 0; s < windows; s++) {
          real slope = g[place(s, o)];
          const real* patch = x + won[place(s, o)];
          each_part([&](int k, int p, int i) { sum[k][p] += slope * at<lanes>(patch + i); });
          slopes += slope;
        }
        each_part([&](int k, int p, int) { at<lanes>(sums[o][k] + p * lanes) = sum[k][p]; });
        w[out * taps + o] += bias * slopes;
      }
    for (int o = 0; o < out; o++) each_tap([&](int k, int r) { *w++ += sums[o][k][r]; });
  }

  // In steps of three windows down and across, since patches that overlap wait for each other.
  void inputs(const real* g, const uint16_t* won, real* __restrict x, int n) const override {
    for (int image = 0; image < n; image++, x += from, g += to, won += to)
      for (int o = 0; o < out; o++)
        for (int t = 0; t < windows; t++) {
          int s = t * (3 * across + 3) % windows;
          real slope = g[place(s, o)];
          real* patch = x + won[place(s, o)];
          each_part([&](int k, int p, int i) {
            at<lanes>(patch + i) += slope * at<lanes>(rows[o][k] + p * lanes);
          });
        }
  }
};

// A fully connected layer, w [to][from] and biases [to]; with ReLU, or the last.
template <int in, int out, bool relu>
struct Full : Layer {
  static constexpr int from = in, to = out, parameters = to * (from + 1);
  static constexpr int lanes = from % widest == 0 ? widest : from % 8 == 0 && widest > 8 ? 8 : 4;
  static constexpr int parts = from / lanes % 5 == 0 ? 5 : 3;  // registers of a tile's row
  using Row = typename Lanes<lanes>::type;
  const real* w;

  explicit Full(const real* theta) : w(theta) {}

  void forward(const real* x, real* z, uint16_t*, int n) const override {
    outputs(x, nullptr, z, n, true);
    for (int i = 0; relu && i < n * to; i++) z[i] = z[i] < 0 ? 0 : z[i];
  }

  void outputs(const real* x, const uint16_t*, real* z, int n, bool bias) const override {
    int i = 0;
    for (; i + 5 <= n; i += 5) dots<5>(x + i * from, z + i * to, bias);
    for (; i < n; i++) dots<1>(x + i * from, z + i * to, bias);
  }

  template <int tall>
  void dots(const real* x, real* z, bool bias) const {
    for (int o = 0; o < to; o++) {
      Row sum[tall] = {};
      for (int r = 0; r < from; r += lanes)
        UNROLL for (int i = 0; i < tall; i++)
          sum[i] += at<lanes>(w + o * from + r) * at<lanes>(x + i * from + r);
      UNROLL for (int i = 0; i < tall; i++)
        z[i * to + o] += total<lanes>(sum[i]) + bias * w[to * from + o];
    }
  }

  void weights(const real* g, const real* x, const uint16_t*, real* sum, int n,
               bool bias) const override {
    product(g, 1, to, x, sum, to, n);
    for (int i = 0; bias && i < n * to; i++) sum[to * from + i % to] += g[i];
  }

  void inputs(const real* g, const uint16_t*, real* x, int n) const override {
    product(g, to, 1, w, x, n, to);
  }

  // Rows of `from` numbers: c[m] += the sum over k of a[m][k] b[k].
  static void product(const real* a, int down, int along, const real* b, real* c, int rows,
                      int n) {
    for (int r = 0; r < from; r += parts * lanes) {
      int m = 0;
      for (; m + 5 <= rows; m += 5)
        tile<5>(a + m * down, down, along, b + r, c + m * from + r, n);
      for (; m < rows; m++) tile<1>(a + m * down, down, along, b + r, c + m * from + r, n);
    }
  }

  template <int tall>
  static void tile(const real* a, int down, int along, const real* b, real* c, int n) {
    Row sum[tall][parts] = {};
    for (int k = 0; k < n; k++)
      UNROLL for (int m = 0; m < tall; m++)
        UNROLL for (int p = 0; p < parts; p++)
          sum[m][p] += a[m * down + k * along] * at<lanes>(b + k * from + p * lanes);
    UNROLL for (int m = 0; m < tall; m++)
      UNROLL for (int p = 0; p < parts; p++) at<lanes>(c + m * from + p * lanes) += sum[m][p];
  }
};
