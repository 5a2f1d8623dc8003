"use strict";

// Watch noise become images: two distillations side by side, each in a worker.

const SHARED = { noise: 0.1, clip: 0.1, average: 0.98, batch: 64 };
const SIDES = [
  {
    isKnown: true,
    settings: { firstRate: 0.3, rawRate: 0.1 }, // one network bears longer steps
    ids: { images: "distill-known", step: "distill-step", accuracy: "distill-accuracy" },
  },
  {
    isKnown: false,
    settings: { firstRate: 0.05, rawRate: 0.02 },
    ids: { images: "distill-new", step: "distill-new-step", accuracy: "distill-new-accuracy" },
  },
];

function distillationBlock() {
  const form = element("distill-settings");
  const [go, stop] = [element("distill-go"), element("distill-stop")];
  const sides = SIDES.map((side) => new Side(side, finished, failed));
  let isPaused = false;

  async function start() {
    if (!form.reportValidity()) return;
    const chosen = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, Number(value)]));
    go.disabled = true;
    go.textContent = "Loading";
    try {
      const { theta, test } = await loadRecord();
      const training = await loadTraining();
      document.querySelectorAll(".dd-total").forEach((total) => (total.textContent = chosen.iterations));
      sides.forEach((side) => side.start(chosen, { theta, training, held: test }));
      setRunning(true);
    } catch (error) {
      failed(error.message);
    }
  }

  function setRunning(isRunning) {
    sides.forEach((side) => side.worker?.postMessage({ isRunning }));
    isPaused = !isRunning;
    showButtons(isRunning ? "Distilling" : "Go on", isRunning);
    if (isRunning) announce("");
  }

  function showButtons(label, isRunning) {
    go.textContent = label;
    go.disabled = isRunning;
    stop.disabled = !isRunning;
    form.firstElementChild.disabled = isRunning;
  }

  function finished() {
    if (!sides.every((side) => side.isDone)) return;
    end("Distil again");
    const [known, unseen] = SIDES.map(({ ids }) => element(ids.accuracy).textContent);
    announce(`Done: ${known} for the known network, ${unseen} for networks not seen before.`);
  }

  function failed(reason) {
    end("Distil");
    announce(`This did not work: ${reason}.`);
  }

  function end(label) {
    sides.forEach((side) => side.end());
    isPaused = false;
    showButtons(label, false);
  }

  const announce = (text) => (element("distill-said").textContent = text);
  go.onclick = () => (isPaused ? setRunning(true) : start());
  stop.onclick = () => setRunning(false);
  form.onchange = () => {
    end("Distil");
    announce("The settings have changed: this will be a new run.");
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && !stop.disabled) setRunning(false);
  });
  showButtons("Distil", false); // some browsers remember otherwise
}

// One of the two: a worker, and what it shows of it.
class Side {
  constructor({ isKnown, settings, ids }, finished, failed) {
    Object.assign(this, { isKnown, settings, ids, finished, failed, isDone: false, worker: null });
    this.draw(new Float64Array(10 * LeNet.pixels));
  }

  start(chosen, { theta, training, held }) {
    this.end();
    this.isDone = false;
    const settings = { ...SHARED, ...this.settings, ...chosen };
    const address = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.worker.onmessage = ({ data }) => {
      URL.revokeObjectURL(address);
      this.show(data, settings.iterations);
    };
    this.worker.onerror = ({ message }) => this.failed(message ?? "the browser refuses workers");
    this.worker.postMessage({ start: { settings, theta: this.isKnown ? theta : null, training, held } });
  }

  end() {
    this.worker?.terminate();
    this.worker = null;
  }

  show({ step, images, accuracy }, iterations) {
    element(this.ids.step).textContent = step;
    element(this.ids.accuracy).textContent = percent(accuracy);
    this.draw(images);
    this.isDone = step === iterations;
    if (this.isDone) this.finished();
  }

  // One canvas for each image.
  draw(images) {
    const grid = element(this.ids.images);
    const n = images.length / LeNet.pixels;
    if (grid.children.length !== n) {
      grid.replaceChildren(...Array.from({ length: n }, (_, k) => smallCanvas(`image of a ${k % 10}`)));
    }
    [...grid.children].forEach((canvas, k) => {
      paint(canvas, images.subarray(k * LeNet.pixels, (k + 1) * LeNet.pixels));
    });
  }
}

distillationBlock();
