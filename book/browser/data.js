"use strict";

// The data that the front page computes with. It comes from scripts that are loaded once a button is
// pressed (a page opened as a file may not fetch): each sets a global constant.

const MEAN = 0.1307; // of MNIST's pixels
const STD = 0.3081;

const element = (id) => document.getElementById(id);
const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const ownAddress = document.currentScript.src;

function loadScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL(name, ownAddress).href;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${name} could not be loaded`));
    document.head.append(script);
  });
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function unzipped(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function numbers(base64) {
  return Float64Array.from(new Float32Array(bytes(base64).buffer));
}

// Images of bytes, normalised, with their labels.
async function digits({ images, labels }) {
  const pixels = await unzipped(images);
  const normalised = Array.from({ length: pixels.length / LeNet.pixels }, (_, i) => {
    const image = pixels.subarray(i * LeNet.pixels, (i + 1) * LeNet.pixels);
    return Float64Array.from(image, (value) => (value / 255 - MEAN) / STD);
  });
  return { images: normalised, labels: bytes(labels) };
}

// Loads when first asked, and again after a failure.
function once(load) {
  let loaded = null;
  return () => {
    loaded ??= load().catch((error) => {
      loaded = null;
      throw error;
    });
    return loaded;
  };
}

const loadRecord = once(async () => {
  await loadScript("fig2a.js");
  return {
    theta: numbers(FIG2A.theta),
    images: numbers(FIG2A.images),
    test: await digits(FIG2A.test),
  };
});

const loadTraining = once(async () => {
  await loadScript("training.js");
  return digits(TRAINING);
});

// Draws a normalised image on a canvas of 28x28.
function paint(canvas, image) {
  const picture = new ImageData(28, 28);
  image.forEach((value, i) => {
    const grey = Math.round(255 * (value * STD + MEAN)); // clamped by the array
    picture.data.set([grey, grey, grey, 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function smallCanvas(label) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 28, height: 28, role: "img", ariaLabel: label });
  return canvas;
}
