"use strict";

// Train LeNet on the ten images, and ask it about digits.

const PIECE = 50; // digits between two looks at the screen
const nextTask = () => new Promise((resolve) => setTimeout(resolve));

function trainingBlock() {
  const network = new LeNet();
  const bars = [...element("train-bars").children];
  const sliders = [...document.querySelectorAll(".dd-rate input")];
  const buttons = [element("train-go"), element("train-other")];
  let trajectory = null; // the weights before and after each step of the network last trained
  let strangers = 0;

  async function trainAndShow(weightsOf, who) {
    buttons.forEach((button) => (button.disabled = true));
    try {
      const { theta, images, test } = await loadRecord();
      trajectory = train(network, distilledFrom(images), weightsOf(theta));
      let accuracy = 0;
      for (const [k, weights] of trajectory.entries()) {
        accuracy = await score(weights, test, bars[k]);
        element("train-accuracy").textContent = percent(accuracy);
      }
      const digits = `${test.images.length} test digits after ${trajectory.length - 1} steps`;
      announce(`${who}: ${percent(accuracy)} of the ${digits}.`);
      read();
    } catch (error) {
      announce(`This did not work: ${error.message}.`);
    }
    buttons.forEach((button) => (button.disabled = false));
  }

  const announce = (text) => (element("train-said").textContent = text);

  // The images with the learning rates and labels as they are set.
  function distilledFrom(images) {
    const raw = Float64Array.from(sliders, (slider) => inverseSoftplus(Number(slider.value)));
    const last = images.length - LeNet.pixels;
    const placed = images.slice();
    if (element("train-shuffled").checked) {
      placed.set(images.subarray(0, last), LeNet.pixels); // image 0 in the place of image 1
      placed.set(images.subarray(last), 0);
    }
    return { images: placed, raw, steps: 1, epochs: raw.length };
  }

  // The accuracy, counted before the reader's eyes.
  async function score(weights, { images, labels }, bar) {
    let right = 0;
    let accuracy = 0;
    for (let from = 0; from < images.length; from += PIECE) {
      const to = from + PIECE;
      right += network.correct(weights, images.slice(from, to), labels.slice(from, to));
      accuracy = right / to;
      bar.querySelector("meter").value = 100 * accuracy;
      bar.lastElementChild.textContent = percent(accuracy);
      await nextTask();
    }
    return accuracy;
  }

  // ---- The pad

  const pad = element("train-pad");
  const pen = pad.getContext("2d", { willReadFrequently: true });
  let sample = null; // the pixels of a test digit, where one lies on the pad
  pen.lineWidth = pad.width / 12;
  pen.lineCap = "round";
  pen.lineJoin = "round";

  function clear() {
    sample = null;
    pen.fillStyle = "black";
    pen.fillRect(0, 0, pad.width, pad.height);
    read();
  }

  function begin(event) {
    if (sample) clear();
    pad.setPointerCapture(event.pointerId);
    pen.strokeStyle = "white";
    pen.beginPath();
    pen.moveTo(...placeOf(event));
    draw(event);
  }

  function draw(event) {
    if (event.buttons === 0) return;
    pen.lineTo(...placeOf(event));
    pen.stroke();
  }

  function placeOf({ clientX, clientY }) {
    const { left, top, width, height } = pad.getBoundingClientRect();
    return [((clientX - left) * pad.width) / width, ((clientY - top) * pad.height) / height];
  }

  async function showSample() {
    try {
      const { test } = await loadRecord();
      const image = test.images[Math.floor(Math.random() * test.images.length)];
      const canvas = smallCanvas("a test digit");
      paint(canvas, image);
      clear();
      pen.imageSmoothingEnabled = false;
      pen.drawImage(canvas, 0, 0, pad.width, pad.height);
      sample = image;
      read();
    } catch (error) {
      announce(`This did not work: ${error.message}.`);
    }
  }

  // What the network sees on the pad, before it was trained and after.
  function read() {
    const image = sample ?? drawn(pen);
    const name = (weights) => (image && weights ? argmax(network.forward(weights, image)) : "-");
    element("train-read-before").textContent = name(trajectory?.[0]);
    element("train-read-after").textContent = name(trajectory?.at(-1));
  }

  const showRate = (slider) => {
    slider.nextElementSibling.textContent = Number(slider.value).toFixed(3);
  };

  function reset() {
    element("train-shuffled").checked = false;
    sliders.forEach((slider) => {
      slider.value = slider.defaultValue;
      showRate(slider);
    });
  }

  element("train-go").onclick = () => trainAndShow((theta) => theta, "The network that they are made for");
  element("train-other").onclick = () => {
    strangers += 1;
    const normal = normals(uniform(strangers));
    trainAndShow(() => network.xavier(normal), `Another network, number ${strangers}`);
  };
  const changed = () => announce("The settings have changed: train again.");
  sliders.forEach((slider) => {
    slider.oninput = () => {
      showRate(slider);
      changed();
    };
  });
  element("train-shuffled").onchange = changed;
  element("train-reset").onclick = () => {
    reset();
    changed();
  };
  pad.onpointerdown = begin;
  pad.onpointermove = draw;
  pad.onpointerup = read;
  pad.onpointercancel = read;
  element("train-clear").onclick = clear;
  element("train-sample").onclick = showSample;
  buttons.forEach((button) => (button.disabled = false)); // some browsers remember it
  reset();
  clear();
}

// A drawing as the dataset's digits are: 20 pixels high or wide, its centre of mass in the middle.
// Null for an empty pad.
function drawn(pen) {
  const { width, height } = pen.canvas;
  const { data } = pen.getImageData(0, 0, width, height);
  const ink = []; // [x, y]
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) if (data[4 * (y * width + x)] > 127) ink.push([x, y]);
  }
  if (ink.length === 0) return null;
  const range = (values) => Math.max(...values) - Math.min(...values) + 1;
  const mean = (values) => values.reduce((a, b) => a + b) / values.length;
  const [xs, ys] = [ink.map(([x]) => x), ink.map(([, y]) => y)];
  const size = 20 / Math.max(range(xs), range(ys));
  const [centreX, centreY] = [mean(xs), mean(ys)];
  const image = new Float64Array(LeNet.pixels);
  for (const [x, y] of ink) {
    const column = Math.floor((x - centreX) * size + 14);
    const row = Math.floor((y - centreY) * size + 14);
    if (column >= 0 && column < 28 && row >= 0 && row < 28) image[row * 28 + column] += size * size;
  }
  return image.map((value) => (Math.min(1, value) - MEAN) / STD);
}

trainingBlock();
