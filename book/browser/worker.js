"use strict";

// One distillation, in a thread of its own. The page sends { start: settings and data } once, then
// { isRunning: true } or { isRunning: false }; the worker sends what there is to see, ten times a
// second. An error ends it and reaches the page's `onerror`.

const SHOWN_EVERY = 100; // ms
const CHECKED_EVERY = 20; // outer steps
const UNSEEN = 3; // networks that images are tested on where every outer step has a new one

let run = null;
let timer = null;

onmessage = ({ data }) => {
  if (data.start) {
    run = prepare(data.start);
    show();
    return;
  }
  clearTimeout(timer);
  if (data.isRunning) timer = setTimeout(work);
};

// theta: the weights of the one known network, or null for a new network every outer step.
function prepare({ settings, theta, training, held }) {
  const network = new LeNet();
  const next = uniform(settings.seed);
  const normal = normals(next);
  const distillation = new Distillation(network, settings, normal);
  const draw = () => theta ?? network.xavier(normal);
  const tested = theta ? [theta] : Array.from({ length: UNSEEN }, draw);
  const accuracy = accuracyOf(network, tested, held);
  return { network, next, distillation, tested, draw, batch: settings.batch, training, held, accuracy };
}

function work() {
  const { settings } = run.distillation;
  const until = performance.now() + SHOWN_EVERY;
  while (run.distillation.step < settings.iterations && performance.now() < until) outerStep();
  show();
  if (run.distillation.step < settings.iterations) timer = setTimeout(work);
}

function outerStep() {
  const { distillation, network, training, held, next, batch, tested } = run;
  const chosen = Array.from({ length: batch }, () => Math.floor(next() * training.images.length));
  const images = chosen.map((i) => training.images[i]);
  const labels = chosen.map((i) => training.labels[i]);
  const loss = distillation.outerStep(run.draw(), images, labels);
  if (!Number.isFinite(loss)) throw new Error(`the loss diverged at outer step ${distillation.step}`);
  const isLast = distillation.step === distillation.settings.iterations;
  if (distillation.step % CHECKED_EVERY === 0 || isLast) {
    const trained = tested.map((theta) => train(network, distillation.mean, theta).at(-1));
    run.accuracy = accuracyOf(network, trained, held);
  }
}

// The mean over networks, on digits that were not trained on.
function accuracyOf(network, networks, { images, labels }) {
  const right = networks.map((theta) => network.correct(theta, images, labels));
  return right.reduce((a, b) => a + b) / networks.length / images.length;
}

function show() {
  const { step, mean } = run.distillation;
  postMessage({ step, images: mean.images, accuracy: run.accuracy });
}
