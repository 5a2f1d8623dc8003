"use strict";

// Algorithm 1 in plain JavaScript: what the package's `distill` does, with one network an outer step.
//
// Distilled data is { images, raw, steps, epochs }: ten images for each step, one of each digit, and
// for each step of each epoch a raw number whose softplus is the learning rate, which is so positive.

const WARM_UP = 20; // outer steps
const BETAS = [0.5, 0.999]; // of Adam
const LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

class Distillation {
  // settings: steps, epochs, iterations, imageRate, rawRate, firstRate, noise, clip, average.
  // normal(): the next number of a standard normal distribution; the images start as its noise.
  constructor(network, settings, normal) {
    const { steps, epochs, firstRate, noise } = settings;
    const images = new Float64Array(steps * LABELS.length * LeNet.pixels);
    const raw = new Float64Array(epochs * steps);
    this.network = network;
    this.settings = settings;
    this.learned = {
      steps,
      epochs,
      images: images.map(() => noise * normal()),
      raw: raw.fill(inverseSoftplus(firstRate)),
    };
    this.mean = { ...this.learned, images: this.learned.images.slice(), raw: raw.slice() }; // running
    this.adam = { images: new Adam(images.length), raw: new Adam(raw.length) };
    this.step = 0;
  }

  // Lines 3 to 9 of Algorithm 1 for one network and some real images; the loss before the step.
  outerStep(theta, realImages, realLabels) {
    const { learned, mean, adam, settings } = this;
    const { loss, images, rates } = metaGradient(this.network, learned, theta, realImages, realLabels);
    const norm = Math.sqrt(images.reduce((sum, g) => sum + g * g, 0));
    const factor = Math.min(1, settings.clip / norm);
    const raw = rates.map((g, t) => g / (1 + Math.exp(-learned.raw[t]))); // softplus' = sigmoid
    const pace = Math.min(1, (this.step + 1) / WARM_UP) * (1 - this.step / settings.iterations);
    adam.images.move(learned.images, images.map((g) => factor * g), pace * settings.imageRate);
    adam.raw.move(learned.raw, raw.map((g) => factor * g), pace * settings.rawRate);
    for (const name of ["images", "raw"]) {
      learned[name].forEach((value, i) => {
        mean[name][i] += (1 - settings.average) * (value - mean[name][i]);
      });
    }
    this.step += 1;
    return loss;
  }
}

// Adam (Kingma and Ba, 2015), on values that it changes in place.
class Adam {
  constructor(size) {
    this.first = new Float64Array(size);
    this.second = new Float64Array(size);
    this.updates = 0;
  }

  move(values, gradient, rate) {
    const [beta1, beta2] = BETAS;
    this.updates += 1;
    const step = rate / (1 - beta1 ** this.updates);
    const correction = Math.sqrt(1 - beta2 ** this.updates);
    gradient.forEach((g, i) => {
      this.first[i] += (1 - beta1) * (g - this.first[i]);
      this.second[i] = beta2 * this.second[i] + (1 - beta2) * g * g;
      values[i] -= (step * this.first[i]) / (Math.sqrt(this.second[i]) / correction + 1e-8);
    });
  }
}

// ---- Gradient descent on distilled data, and its gradient (eq. 2, 3, 8; section 3.4)

// The ten images of step s.
function imagesOf(distilled, s) {
  return LABELS.map((k) => {
    const first = (s * LABELS.length + k) * LeNet.pixels;
    return distilled.images.subarray(first, first + LeNet.pixels);
  });
}

// [step of the epoch, learning rate] for each step in turn.
function order({ steps, epochs, raw }) {
  return Array.from({ length: epochs * steps }, (_, t) => [t % steps, Math.log1p(Math.exp(raw[t]))]);
}

// The weights before each step of gradient descent, and after the last.
function train(network, distilled, theta) {
  const gradient = new Float64Array(network.parameters);
  const trajectory = [theta];
  for (const [s, rate] of order(distilled)) {
    network.gradient(theta, imagesOf(distilled, s), LABELS, gradient);
    theta = theta.map((weight, i) => weight - rate * gradient[i]);
    trajectory.push(theta);
  }
  return trajectory;
}

// What a network trained on distilled data loses on real images, and that loss's derivatives by the
// distilled images and the learning rates. Backwards from the last step, with v = dL/dtheta after it.
function metaGradient(network, distilled, theta, realImages, realLabels) {
  const trajectory = train(network, distilled, theta);
  const v = new Float64Array(network.parameters);
  const loss = network.gradient(trajectory.at(-1), realImages, realLabels, v);
  const images = new Float64Array(distilled.images.length);
  const rates = new Float64Array(distilled.raw.length);
  for (const [t, [s, rate]] of [...order(distilled).entries()].reverse()) {
    const chosen = imagesOf(distilled, s);
    const { phi, byWeights, byImages } = network.derivativesAlong(trajectory[t], v, chosen, LABELS);
    byImages.forEach((derivatives, k) => {
      const first = (s * LABELS.length + k) * LeNet.pixels;
      derivatives.forEach((value, i) => {
        images[first + i] -= rate * value;
      });
    });
    rates[t] = -phi;
    byWeights.forEach((value, i) => {
      v[i] -= rate * value;
    });
  }
  return { loss, images, rates };
}

// The raw number of a learning rate.
function inverseSoftplus(rate) {
  return Math.log(Math.expm1(rate));
}

// ---- Chance, the same for the same seed

// Numbers uniform in (0, 1), by the generator of Marsaglia (2003), "xorshift".
function uniform(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1; // never 0, where it would stay
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
}

// Standard normal numbers, by the method of Box and Muller (1958).
function normals(next) {
  return () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
}
