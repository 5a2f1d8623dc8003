"use strict";

// LeNet with its first and second derivatives, in plain JavaScript and double precision.
//
// All five layers are of one kind: filters slide over the input, of each window of pool x pool
// neighbouring responses only the largest is kept, and ReLU sets it to 0 where it is negative. (A
// fully connected layer has filters as large as its input.) The forward pass notes which patch of
// the input won each window, or that ReLU shut the output. A small change of weights or input leaves
// these winners as they are, so all derivatives visit the live winners only.
//
// Weights are one Float64Array in the order of the package's LeNet: conv1.weight [6, 1, 5, 5],
// conv1.bias [6], conv2.weight [16, 6, 5, 5], ... fc3.bias [10]. Images are Float64Arrays of 28x28
// normalised pixels; the network adds a border of two zeros.

const SHUT = -1; // the winner of an output that ReLU shut

class LeNet {
  static layers = [
    { inputs: 1, side: 32, filters: 6, kernel: 5, pool: 2, relu: true },
    { inputs: 6, side: 14, filters: 16, kernel: 5, pool: 2, relu: true },
    { inputs: 16, side: 5, filters: 120, kernel: 5, pool: 1, relu: true },
    { inputs: 120, side: 1, filters: 84, kernel: 1, pool: 1, relu: true },
    { inputs: 84, side: 1, filters: 10, kernel: 1, pool: 1, relu: false },
  ];
  static pixels = 28 * 28;

  constructor() {
    let start = 0;
    this.layers = LeNet.layers.map((layer) => {
      const across = (layer.side - layer.kernel + 1) / layer.pool;
      const outputs = layer.filters * across ** 2;
      const patch = LeNet.patch(layer);
      const weight = start;
      const bias = weight + layer.filters * patch.length;
      start = bias + layer.filters;
      return { ...layer, across, patch, weight, bias, winner: new Int32Array(outputs) };
    });
    this.parameters = start;
    const sizes = [32 * 32, ...this.layers.map((layer) => layer.winner.length)];
    const arrays = () => sizes.map((size) => new Float64Array(size));
    this.values = arrays(); // what goes into each layer, and at the end the logits
    this.tangents = arrays(); // their derivatives along a direction v of the weights
    this.adjoints = arrays(); // the loss's derivatives by the values
    this.adjointTangents = arrays(); // the adjoints' derivatives along v
  }

  // Where the pixels of a patch lie, counted from its first.
  static patch({ inputs, side, kernel }) {
    const places = [];
    for (let c = 0; c < inputs; c++) {
      for (let y = 0; y < kernel; y++) {
        for (let x = 0; x < kernel; x++) places.push((c * side + y) * side + x);
      }
    }
    return Int32Array.from(places);
  }

  // Weights with the variance 2 / (fan in + fan out) (Glorot and Bengio, 2010), biases 0.
  // normal(): the next number of a standard normal distribution.
  xavier(normal) {
    const theta = new Float64Array(this.parameters);
    for (const { filters, kernel, patch, weight, bias } of this.layers) {
      const std = Math.sqrt(2 / (patch.length + filters * kernel ** 2));
      for (let w = weight; w < bias; w++) theta[w] = std * normal();
    }
    return theta;
  }

  // The logits of one image; what the derivatives need stays in `values` and `winner`.
  forward(theta, image) {
    const input = this.values[0];
    for (let y = 0; y < 28; y++) {
      for (let x = 0; x < 28; x++) input[(y + 2) * 32 + x + 2] = image[y * 28 + x];
    }
    this.layers.forEach((layer, l) => layerForward(layer, theta, this.values[l], this.values[l + 1]));
    return this.values.at(-1);
  }

  // The mean cross-entropy of some images; its gradient by the weights is written to `gradient`.
  gradient(theta, images, labels, gradient) {
    const { layers, values, adjoints } = this;
    gradient.fill(0);
    let loss = 0;
    images.forEach((image, i) => {
      const p = softmax(this.forward(theta, image));
      loss -= Math.log(p[labels[i]]) / images.length;
      p.forEach((value, k) => {
        adjoints.at(-1)[k] = (value - (k === labels[i])) / images.length;
      });
      for (let l = layers.length - 1; l >= 0; l--) {
        layerBackward(layers[l], theta, values[l], adjoints[l], adjoints[l + 1], gradient);
      }
    });
    return loss;
  }

  // phi = <v, gradient>, the derivative of the mean cross-entropy along v, and phi's own derivatives:
  // by the weights (the Hessian's product with v) and by each image.
  derivativesAlong(theta, v, images, labels) {
    const { layers, values, tangents, adjoints, adjointTangents } = this;
    const byWeights = new Float64Array(this.parameters);
    let phi = 0;
    const byImages = images.map((image, i) => {
      const p = softmax(this.forward(theta, image));
      layers.forEach((layer, l) => {
        layerTangent(layer, theta, v, values[l], tangents[l], tangents[l + 1]);
      });
      const along = tangents.at(-1);
      const mean = p.reduce((sum, value, k) => sum + value * along[k], 0);
      phi += (mean - along[labels[i]]) / images.length;
      p.forEach((value, k) => {
        adjoints.at(-1)[k] = (value - (k === labels[i])) / images.length;
        adjointTangents.at(-1)[k] = (value * (along[k] - mean)) / images.length;
      });
      for (let l = layers.length - 1; l >= 0; l--) {
        layerBackward(layers[l], theta, values[l], adjoints[l], adjoints[l + 1]);
        layerBackwardTangent(
          layers[l], theta, v, values[l], tangents[l], adjoints[l + 1],
          adjointTangents[l], adjointTangents[l + 1], byWeights,
        );
      }
      return withoutBorder(adjointTangents[0]);
    });
    return { phi, byWeights, byImages };
  }

  // How many of some images it names rightly.
  correct(theta, images, labels) {
    return images.filter((image, i) => argmax(this.forward(theta, image)) === labels[i]).length;
  }
}

// ---- The layer and its derivatives. Every output o is the sum over a patch, theta[w] * input[i].

function layerForward(layer, theta, input, output) {
  const { side, filters, pool, across, patch, weight, bias, relu, winner } = layer;
  let o = 0;
  for (let f = 0; f < filters; f++) {
    const first = weight + f * patch.length;
    for (let y = 0; y < across; y++) {
      for (let x = 0; x < across; x++, o++) {
        let largest = -Infinity;
        for (let place = 0; place < pool * pool; place++) {
          const row = y * pool + Math.floor(place / pool);
          const corner = row * side + x * pool + (place % pool);
          let sum = theta[bias + f];
          for (let k = 0; k < patch.length; k++) sum += theta[first + k] * input[corner + patch[k]];
          if (sum > largest) {
            largest = sum;
            winner[o] = corner;
          }
        }
        if (relu && largest <= 0) {
          largest = 0;
          winner[o] = SHUT;
        }
        output[o] = largest;
      }
    }
  }
}

// Along v: the output's derivative from the weights' v and the input's tangent.
function layerTangent(layer, theta, v, input, tangent, outputTangent) {
  outputTangent.fill(0);
  forEachLive(layer, (o, f, first, corner) => {
    const { patch, bias } = layer;
    let sum = v[bias + f];
    for (let k = 0; k < patch.length; k++) {
      const i = corner + patch[k];
      sum += v[first + k] * input[i] + theta[first + k] * tangent[i];
    }
    outputTangent[o] = sum;
  });
}

// The loss's derivatives by the input and, where `gradient` is given, by the weights (added).
function layerBackward(layer, theta, input, adjoint, outputAdjoint, gradient) {
  adjoint.fill(0);
  forEachLive(layer, (o, f, first, corner) => {
    const { patch, bias } = layer;
    const g = outputAdjoint[o];
    for (let k = 0; k < patch.length; k++) adjoint[corner + patch[k]] += g * theta[first + k];
    if (!gradient) return;
    gradient[bias + f] += g;
    for (let k = 0; k < patch.length; k++) gradient[first + k] += g * input[corner + patch[k]];
  });
}

// Along v: the derivatives of what `layerBackward` gives, by the input and by the weights (added).
function layerBackwardTangent(layer, theta, v, input, tangent, outputAdjoint, adjointTangent, outputAdjointTangent, byWeights) {
  adjointTangent.fill(0);
  forEachLive(layer, (o, f, first, corner) => {
    const { patch, bias } = layer;
    const g = outputAdjoint[o];
    const gTangent = outputAdjointTangent[o];
    byWeights[bias + f] += gTangent;
    for (let k = 0; k < patch.length; k++) {
      const i = corner + patch[k];
      const w = first + k;
      adjointTangent[i] += gTangent * theta[w] + g * v[w];
      byWeights[w] += gTangent * input[i] + g * tangent[i];
    }
  });
}

// Calls visit(output, filter, the filter's first weight, the winning patch's first pixel).
function forEachLive({ filters, patch, weight, winner }, visit) {
  const outputsOfFilter = winner.length / filters;
  for (let o = 0; o < winner.length; o++) {
    if (winner[o] === SHUT) continue;
    const f = Math.floor(o / outputsOfFilter);
    visit(o, f, weight + f * patch.length, winner[o]);
  }
}

// ---- Small things

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function argmax(values) {
  return values.indexOf(Math.max(...values));
}

// 28x28 of 32x32.
function withoutBorder(image) {
  return Float64Array.from({ length: LeNet.pixels }, (_, i) => {
    return image[(Math.floor(i / 28) + 2) * 32 + (i % 28) + 2];
  });
}
