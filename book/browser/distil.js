"use strict";

// Watch noise become images: two distillations side by side, each in a worker.

const HELD = 300; // digits that the images are tried on
const SHARED = { noise: 0.1, clip: 0.1, average: 0.98, batch: 64 };
const SIDES = [
  {
    known: true,
    settings: { firstRate: 0.3, rawRate: 0.1 }, // one network bears longer steps
    ids: { images: "distill-known", step: "distill-step", accuracy: "distill-accuracy" },
  },
  {
    known: false,
    settings: { firstRate: 0.05, rawRate: 0.02 },
    ids: { images: "distill-new", step: "distill-new-step", accuracy: "distill-new-accuracy" },
  },
];

function distillationBlock() {
  const form = element("distill-settings");
  const [go, stop] = [element("distill-go"), element("distill-stop")];
  const sides = SIDES.map((side) => new Side(side, finished));
  let paused = false;

  async function start() {
    if (!form.reportValidity()) return;
    go.disabled = true;
    try {
      const { theta, test } = await loadRecord();
      const held = { images: test.images.slice(0, HELD), labels: test.labels.slice(0, HELD) };
      const training = await loadTraining();
      const entries = [...new FormData(form)].map(([name, value]) => [name, Number(value)]);
      sides.forEach((side) => side.start(Object.fromEntries(entries), { theta, training, held }));
      going(true);
    } catch (error) {
      say(`This did not work: ${error.message}.`);
      go.disabled = false;
    }
  }

  function going(now) {
    sides.forEach((side) => side.worker?.postMessage({ going: now }));
    paused = !now;
    go.disabled = now;
    go.textContent = now ? "Distilling" : "Go on";
    stop.disabled = !now;
    if (now) say("");
  }

  function finished() {
    if (!sides.every((side) => side.done)) return;
    going(false);
    paused = false;
    go.textContent = "Distil again";
    const [known, strange] = SIDES.map(({ ids }) => element(ids.accuracy).textContent);
    say(`Done: ${known} for the known network, ${strange} for new ones.`);
  }

  const say = (text) => (element("distill-said").textContent = text);
  go.onclick = () => (paused ? going(true) : start());
  stop.onclick = () => going(false);
  form.oninput = () => {
    paused = false; // other settings are another run
    go.textContent = "Distil";
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && !stop.disabled) going(false);
  });
}

// One of the two: a worker, and what it shows of it.
class Side {
  constructor({ known, settings, ids }, finished) {
    Object.assign(this, { known, settings, ids, finished, done: false, worker: null });
    this.draw(new Float64Array(10 * LeNet.pixels));
  }

  start(chosen, { theta, training, held }) {
    this.worker?.terminate();
    this.done = false;
    const settings = { ...SHARED, ...this.settings, ...chosen };
    const source = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
    this.worker = new Worker(source);
    this.worker.onmessage = ({ data }) => this.show(data, settings.iterations);
    this.worker.postMessage({ start: { settings, theta: this.known ? theta : null, training, held } });
  }

  show({ step, images, accuracy }, iterations) {
    element(this.ids.step).textContent = step;
    if (accuracy !== undefined) element(this.ids.accuracy).textContent = percent(accuracy);
    this.draw(images);
    this.done = step === iterations;
    if (this.done) this.finished();
  }

  // One canvas for each image.
  draw(images) {
    const grid = element(this.ids.images);
    const n = images.length / LeNet.pixels;
    if (grid.children.length !== n) {
      grid.replaceChildren(...Array.from({ length: n }, (_, k) => smallCanvas(`image of a ${k % 10}`)));
    }
    [...grid.children].forEach((child, k) => {
      paint(child, images.subarray(k * LeNet.pixels, (k + 1) * LeNet.pixels));
    });
  }
}

distillationBlock();
