// Widgets typeset their labels through the interface of MathJax 2; the pages with formulas load MathJax 3.
// Sphinx has set window.MathJax, the configuration, before this script and loads MathJax itself after it.
if (window.MathJax) {
  MathJax.Hub = { Queue() {} };
  MathJax.startup = {
    ready() {
      MathJax.startup.defaultReady();
      MathJax.Hub = {
        Queue: ([, , element]) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element])),
      };
    },
  };
}

document.documentElement.classList.add("dd-scripts");

// A picture of a page leads to itself alone, where a phone can enlarge it.
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll(".cell_output img, figure > img")) {
    const link = Object.assign(document.createElement("a"), { href: image.src });
    image.replaceWith(link);
    link.append(image);
  }
});

// The widgets' script is large: it is loaded when one of them comes near the window.
const widgets = new URL("vendor/widgets/embed.js", document.currentScript.src);
document.addEventListener("DOMContentLoaded", () => {
  const near = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      const script = Object.assign(document.createElement("script"), { src: widgets });
      script.onload = () => window.dispatchEvent(new Event("load")); // which it waits for
      document.head.append(script);
    },
    { rootMargin: "800px" },
  );
  for (const view of document.querySelectorAll("script[type='application/vnd.jupyter.widget-view+json']")) {
    near.observe(view.parentElement);
  }
});

// The handle of a widget's slider has no name of its own, and what it changes is to be announced.
new MutationObserver(() => {
  for (const handle of document.querySelectorAll(".widget-slider [role=slider]:not([aria-label])")) {
    const slider = handle.closest(".widget-slider");
    handle.setAttribute("aria-label", slider.querySelector(".widget-label").textContent);
    slider.parentElement.setAttribute("aria-live", "polite");
  }
}).observe(document, { childList: true, subtree: true });
