"use strict";

// Train LeNet on the ten images, and ask it about digits.

const PIECE = 50; // digits between two looks at the screen
const nextFrame = () => new Promise((resolve) => setTimeout(resolve));

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
      const { theta, distilled, test } = await loadRecord();
      trajectory = train(network, chosen(distilled), weightsOf(theta));
      let accuracy = 0;
      for (const [k, weights] of trajectory.entries()) {
        accuracy = await score(weights, test, bars[k]);
        element("train-accuracy").textContent = percent(accuracy);
      }
      element("train-said").textContent =
        `${who}: ${percent(accuracy)} of the 500 test digits after ${trajectory.length - 1} steps.`;
      read();
    } catch (error) {
      element("train-said").textContent = `This did not work: ${error.message}.`;
    }
    buttons.forEach((button) => (button.disabled = false));
  }

  // The distilled images with the rates and labels as they are set.
  function chosen(distilled) {
    const raw = Float64Array.from(sliders, (slider) => Math.log(Math.expm1(Number(slider.value))));
    const images = distilled.images.slice();
    if (element("train-shuffled").checked) {
      images.copyWithin(0, LeNet.pixels);
      images.set(distilled.images.subarray(0, LeNet.pixels), images.length - LeNet.pixels);
    }
    return { ...distilled, images, raw };
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
      await nextFrame();
    }
    return accuracy;
  }

  // ---- The pad

  const pad = element("train-pad");
  const pen = pad.getContext("2d", { willReadFrequently: true });
  const scale = pad.width / 28;
  let sample = null; // the pixels of a test digit, where one lies on the pad

  function clear() {
    sample = null;
    pen.fillStyle = "black";
    pen.fillRect(0, 0, pad.width, pad.height);
    read();
  }

  function draw(event) {
    if (event.buttons === 0) return;
    const box = pad.getBoundingClientRect();
    const x = ((event.clientX - box.left) * pad.width) / box.width;
    const y = ((event.clientY - box.top) * pad.height) / box.height;
    sample = null;
    pen.fillStyle = "white";
    pen.beginPath();
    pen.arc(x, y, 1.2 * scale, 0, 2 * Math.PI);
    pen.fill();
  }

  async function showSample() {
    const { test } = await loadRecord();
    const image = test.images[Math.floor(Math.random() * test.images.length)];
    const canvas = smallCanvas("a test digit");
    paint(canvas, image);
    clear();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(canvas, 0, 0, pad.width, pad.height);
    sample = image;
    read();
  }

  // What the networks before and after training see on the pad.
  function read() {
    const image = sample ?? drawn(pen);
    const name = (weights) => (image && weights ? argmax(network.forward(weights, image)) : "-");
    element("train-read-before").textContent = name(trajectory?.[0]);
    element("train-read-after").textContent = name(trajectory?.at(-1));
  }

  element("train-go").onclick = () => trainAndShow((theta) => theta, "The network that they are made for");
  element("train-other").onclick = () => {
    strangers += 1;
    const drawnByChance = normals(uniform(strangers));
    trainAndShow(() => network.xavier(drawnByChance), `Another network, number ${strangers}`);
  };
  const tell = (slider) => (slider.nextElementSibling.textContent = Number(slider.value).toFixed(3));
  sliders.forEach((slider) => (slider.oninput = () => tell(slider)));
  element("train-reset").onclick = () => {
    element("train-shuffled").checked = false;
    sliders.forEach((slider) => {
      slider.value = slider.defaultValue;
      tell(slider);
    });
  };
  pad.onpointerdown = draw;
  pad.onpointermove = draw;
  pad.onpointerup = read;
  element("train-clear").onclick = clear;
  element("train-sample").onclick = showSample;
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
  const [xs, ys] = [ink.map(([x]) => x), ink.map(([, y]) => y)];
  const size = 20 / Math.max(range(xs), range(ys));
  const mean = (values) => values.reduce((a, b) => a + b) / values.length;
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
