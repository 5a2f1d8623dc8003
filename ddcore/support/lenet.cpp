// LeNet on processors, for N networks at once: gradient steps, reverse steps and logits, as in
// unroll.py. Compiled by kernel.py for one kind of number (REAL: float or double), of image
// (CHANNELS: 1 or 3) and number of classes (CLASSES).
//
// Images are cut into tasks by N and their number alone, and each sum has an order of its own, so
// that the number of threads changes no bit.

#include "layers.h"

#include <cmath>
#include <vector>

using std::vector;

using First = Convolution<32, CHANNELS, 6, false>;
using Second = Convolution<14, 6, 16, true>;
using Third = Full<400, 120, true>;
using Fourth = Full<120, 84, true>;
using Fifth = Full<84, CLASSES, false>;
constexpr int layers = 5;
constexpr int sizes[] = {First::from, First::to, Second::to, Third::to, Fourth::to, Fifth::to};
constexpr int second = First::parameters, third = second + Second::parameters;
constexpr int fourth = third + Third::parameters, fifth = fourth + Fourth::parameters;
constexpr int starts[] = {0, second, third, fourth, fifth};  // of the layers' weights in theta
constexpr int64_t P = fifth + Fifth::parameters;
constexpr int together = 20;  // images that are computed at once: what stays in the caches

struct LeNet {
  First a;
  Second b;
  Third c;
  Fourth d;
  Fifth e;
  const Layer* layer[layers] = {&a, &b, &c, &d, &e};

  explicit LeNet(const real* w) : a(w), b(w + second), c(w + third), d(w + fourth), e(w + fifth) {}
};

// Of n images, by layer: its inputs, and behind the last the logits; or tangents, or slopes.
template <class Number>
struct Values {
  vector<Number> all;
  Number* of[layers + 1];

  explicit Values(int n) {
    int count = 0;
    for (int size : sizes) count += n * size;
    all.resize(count + 64);  // a register may reach beyond the end
    of[0] = all.data();
    for (int l = 0; l < layers; l++) of[l + 1] = of[l] + n * sizes[l];
  }
  Number* operator[](int l) const { return of[l]; }
};
using Numbers = Values<real>;
using Winners = Values<uint16_t>;

// What comes back to the inputs x of a layer, where the ReLU before it is shut: nothing.
void shut(real* g, const real* x, int n) {
  for (int i = 0; i < n; i++) g[i] = x[i] > 0 ? g[i] : 0;
}

void forward(const LeNet& w, Numbers& v, Winners& won, int n) {
  for (int l = 0; l < layers; l++) w.layer[l]->forward(v[l], v[l + 1], won[l + 1], n);
}

// The tangents of v along dw.
void tangent(const LeNet& w, const LeNet& dw, const Numbers& v, Numbers& dv, const Winners& won,
             int n) {
  for (int l = 0; l < layers; l++) {
    if (l > 0) shut(dv[l], v[l], n * sizes[l]);
    dw.layer[l]->outputs(v[l], won[l + 1], dv[l + 1], n, true);
    if (l > 0) w.layer[l]->outputs(dv[l], won[l + 1], dv[l + 1], n, false);
  }
}

// From the slopes of the logits, those of all inputs but the images, and of theta: added to sum.
void backward(const LeNet& w, const Numbers& v, Numbers& g, const Winners& won, real* sum, int n) {
  for (int l = layers - 1; l >= 0; l--) {
    w.layer[l]->weights(g[l + 1], v[l], won[l + 1], sum + starts[l], n, true);
    if (l == 0) continue;
    w.layer[l]->inputs(g[l + 1], won[l + 1], g[l], n);
    shut(g[l], v[l], n * sizes[l]);
  }
}

// The tangents of all these, of the images' slopes too; those of theta's are added to sum.
void backward_tangent(const LeNet& w, const LeNet& dw, const Numbers& v, const Numbers& dv,
                      Numbers& g, Numbers& dg, const Winners& won, real* sum, int n) {
  for (int l = layers - 1; l >= 0; l--) {
    w.layer[l]->weights(dg[l + 1], v[l], won[l + 1], sum + starts[l], n, true);
    w.layer[l]->inputs(dg[l + 1], won[l + 1], dg[l], n);
    dw.layer[l]->inputs(g[l + 1], won[l + 1], dg[l], n);
    if (l == 0) continue;
    w.layer[l]->weights(g[l + 1], dv[l], won[l + 1], sum + starts[l], n, false);
    w.layer[l]->inputs(g[l + 1], won[l + 1], g[l], n);
    shut(g[l], v[l], n * sizes[l]);
    shut(dg[l], v[l], n * sizes[l]);
  }
}

// p, and -log p
void softmax(const real* z, real* p, real* loss) {
  real top = *std::max_element(z, z + CLASSES), sum = 0;
  for (int c = 0; c < CLASSES; c++) sum += p[c] = std::exp(z[c] - top);
  for (int c = 0; c < CLASSES; c++) loss[c] = top + std::log(sum) - z[c];
  for (int c = 0; c < CLASSES; c++) p[c] /= sum;
}

// The pixels of n images [CHANNELS][side][side], and where they are in [32][32][CHANNELS]: 28x28
// images have a border of zeros there.
template <class Action>
void each_pixel(int side, int n, Action action) {
  int border = (32 - side) / 2, pixel = 0;
  for (int i = 0; i < n; i++)
    for (int c = 0; c < CHANNELS; c++)
      for (int y = border; y < side + border; y++)
        for (int x = border; x < side + border; x++)
          action(pixel++, ((i * 32 + y) * 32 + x) * CHANNELS + c);
}

// work(network, first image, how many, where to add what they give for theta), in parallel.
template <class Work>
void share(int64_t N, int64_t n, real* out, int threads, Work work) {
  int64_t most = n > 128 ? 128 : N > 1 ? n : (n + 1) / 2, tasks = (n + most - 1) / most;
  vector<real> sums(N * (tasks - 1) * P);  // of a network's tasks but the first
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < N * tasks; task++) {
    int64_t j = task / tasks, t = task % tasks, end = std::min(n, (t + 1) * most);
    real* sum = t == 0 ? out + j * P : &sums[(j * (tasks - 1) + t - 1) * P];
    for (int64_t i = t * most; i < end; i += together)
      work(j, i, int(std::min<int64_t>(together, end - i)), sum);
  }
#pragma omp parallel for num_threads(threads)
  for (int64_t part = 0; part < 8 * N; part++)
    for (int64_t j = part / 8, t = 0; t < tasks - 1; t++)
      for (int64_t p = part % 8 * P / 8; p < (part % 8 + 1) * P / 8; p++)
        out[j * P + p] += sums[(j * (tasks - 1) + t) * P + p];
}

extern "C" {

// out [N][P] -= lr * the gradient of each network's mean loss on images [n] or its own [N][n];
// losses [N][n] of each image. targets: as images.
void gradient_step(const real* theta, const real* images, const real* targets, bool own, double lr,
                   real* out, real* losses, int64_t N, int64_t n, int side, int threads) {
  int64_t pixels = CHANNELS * side * side;
  share(N, n, out, threads, [&](int64_t j, int64_t i, int m, real* sum) {
    int64_t first = own ? j * n + i : i;
    LeNet w(theta + j * P);
    Numbers v(m), g(m);
    Winners won(m);
    each_pixel(side, m, [&](int a, int b) { v[0][b] = images[first * pixels + a]; });
    forward(w, v, won, m);
    for (int k = 0; k < m; k++) {
      const real* target = targets + (first + k) * CLASSES;
      real *slope = g[layers] + k * CLASSES, loss[CLASSES], total = 0, mean = 0;
      softmax(v[layers] + k * CLASSES, slope, loss);
      for (int c = 0; c < CLASSES; c++) total += target[c], mean += target[c] * loss[c];
      for (int c = 0; c < CLASSES; c++) slope[c] = -lr / n * (total * slope[c] - target[c]);
      losses[j * n + i + k] = mean;
    }
    backward(w, v, g, won, sum, m);
  });
}

// out [N][P] -= lr * the derivative of phi = <v, gradient> with respect to theta; -lr times those
// with respect to images and targets, for each network, and -phi [N][n] of each image.
void reverse_step(const real* theta, const real* v_, const real* images, const real* targets,
                  double lr, real* out, real* d_images, real* d_targets, real* d_lr, int64_t N,
                  int64_t n, int side, int threads) {
  int64_t pixels = CHANNELS * side * side;
  share(N, n, out, threads, [&](int64_t j, int64_t i, int m, real* sum) {
    LeNet w(theta + j * P), dw(v_ + j * P);
    Numbers v(m), dv(m), g(m), dg(m);
    Winners won(m);
    each_pixel(side, m, [&](int a, int b) { v[0][b] = images[i * pixels + a]; });
    forward(w, v, won, m);
    tangent(w, dw, v, dv, won, m);
    for (int k = 0; k < m; k++) {
      int64_t row = j * n + i + k;
      const real *target = targets + (i + k) * CLASSES, *dz = dv[layers] + k * CLASSES;
      real *slope = g[layers] + k * CLASSES, *d_slope = dg[layers] + k * CLASSES;
      real p[CLASSES], loss[CLASSES], total = 0, mean = 0, phi = 0;
      softmax(v[layers] + k * CLASSES, p, loss);
      for (int c = 0; c < CLASSES; c++) total += target[c], mean += p[c] * dz[c];
      for (int c = 0; c < CLASSES; c++) {
        real g_z = (total * p[c] - target[c]) / n;
        phi += g_z * dz[c];
        slope[c] = -lr * g_z;
        d_slope[c] = -lr / n * total * p[c] * (dz[c] - mean);
        d_targets[row * CLASSES + c] = -lr / n * (mean - dz[c]);
      }
      d_lr[row] = -phi;
    }
    backward_tangent(w, dw, v, dv, g, dg, won, sum, m);
    each_pixel(side, m, [&](int a, int b) { d_images[(j * n + i) * pixels + a] = dg[0][b]; });
  });
}

// out [N][n][CLASSES], of images [n] or each network's own [N][n]
void logits(const real* theta, const real* images, bool own, real* out, int64_t N, int64_t n,
            int side, int threads) {
  int64_t pixels = CHANNELS * side * side, tasks = (n + 99) / 100;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < N * tasks; task++) {
    int64_t j = task / tasks, t = task % tasks, end = std::min(n, (t + 1) * 100);
    LeNet w(theta + j * P);
    for (int64_t i = t * 100; i < end; i += together) {
      int m = std::min<int64_t>(together, end - i);
      int64_t first = own ? j * n + i : i;
      Numbers v(m);
      Winners won(m);
      each_pixel(side, m, [&](int a, int b) { v[0][b] = images[first * pixels + a]; });
      forward(w, v, won, m);
      std::copy_n(v[layers], m * CLASSES, out + (j * n + i) * CLASSES);
    }
  }
}
}
