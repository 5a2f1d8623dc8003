"use strict";

// One distillation, in a thread of its own. The page sends { start: settings and data } once, then
// { going: true } and { going: false }; the worker sends what there is to see, some times a second.

const SHOWN_EVERY = 100; // ms
const CHECKED_EVERY = 20; // outer steps
const STRANGERS = 3; // networks that new images are checked on where none is known

let run = null;
let going = false;

onmessage = ({ data }) => {
  if (data.start) run = prepare(data.start);
  if (data.going && !going) setTimeout(work);
  going = data.going;
};

// theta: weights of the one known network, or null for a new network every outer step.
function prepare({ settings, theta, training, held }) {
  const network = new LeNet();
  const next = uniform(settings.seed);
  const normal = normals(next);
  const distillation = new Distillation(network, settings, normal);
  const strangers = theta ? [theta] : Array.from({ length: STRANGERS }, () => network.xavier(normal));
  const draw = () => (theta ? theta : network.xavier(normal));
  return { network, next, distillation, strangers, draw, batch: settings.batch, training, held };
}

function work() {
  const { settings } = run.distillation;
  const until = performance.now() + SHOWN_EVERY;
  while (going && run.distillation.step < settings.iterations && performance.now() < until) {
    outerStep();
  }
  show();
  if (run.distillation.step === settings.iterations) going = false;
  if (going) setTimeout(work);
}

function outerStep() {
  const { distillation, training, next, batch } = run;
  const chosen = Array.from({ length: batch }, () => Math.floor(next() * training.images.length));
  const images = chosen.map((i) => training.images[i]);
  const labels = chosen.map((i) => training.labels[i]);
  distillation.outerStep(run.draw(), images, labels);
  const last = distillation.step === distillation.settings.iterations;
  if (distillation.step % CHECKED_EVERY === 0 || last) run.accuracy = accuracy();
}

// Of networks trained on the running mean of the images, on digits that were not trained on.
function accuracy() {
  const { network, distillation, strangers, held } = run;
  const right = strangers.map((theta) => {
    return network.correct(train(network, distillation.mean, theta).at(-1), held.images, held.labels);
  });
  return right.reduce((a, b) => a + b) / strangers.length / held.images.length;
}

function show() {
  const { step, mean } = run.distillation;
  const rates = order(mean).map(([, rate]) => rate);
  postMessage({ step, images: mean.images, rates, accuracy: run.accuracy });
}
