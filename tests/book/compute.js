// Reads {case, ...} as JSON, answers with what the page's JavaScript computes. Arguments: the sources.
const fs = require("fs");
const vm = require("vm");

const sources = process.argv.slice(2).map((path) => fs.readFileSync(path, "utf8"));
vm.runInThisContext(sources.join("\n"));

const double = (values) => Float64Array.from(values);
const given = JSON.parse(fs.readFileSync(0, "utf8"), (name, value) => {
  return Array.isArray(value) && name !== "labels" && typeof value[0] === "number" ? double(value) : value;
});

const cases = {
  gradient({ theta, images, labels }) {
    const gradient = double({ length: theta.length });
    const loss = new LeNet().gradient(theta, images, labels, gradient);
    return { loss, gradient };
  },
  derivativesAlong({ theta, v, images, labels }) {
    return new LeNet().derivativesAlong(theta, v, images, labels);
  },
  metaGradient({ distilled, theta, real, labels }) {
    return metaGradient(new LeNet(), distilled, theta, real, labels);
  },
  outerSteps({ settings, noise, networks, batches }) {
    let drawn = 0;
    const distillation = new Distillation(new LeNet(), settings, () => noise[drawn++]);
    for (const { network, real, labels } of batches) {
      distillation.outerStep(networks[network], real, labels);
    }
    return { learned: distillation.learned, mean: distillation.mean };
  },
  correct({ theta, distilled, images, labels }) {
    const network = new LeNet();
    return train(network, distilled, theta).map((weights) => network.correct(weights, images, labels));
  },
};

const plain = (name, value) => (value instanceof Float64Array ? Array.from(value) : value);
process.stdout.write(JSON.stringify(cases[given.case](given), plain));
