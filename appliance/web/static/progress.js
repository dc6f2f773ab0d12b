// Follows a start by the Hub's events. Without this file the page refreshes by itself.

const SECOND_MS = 1000;

for (const place of document.querySelectorAll("[data-progress]")) {
  const message = place.querySelector("[data-message]");
  const bar = place.querySelector("progress");
  const steps = [...place.querySelectorAll("[data-step]")];
  const elapsed = place.querySelector("[data-elapsed]");
  const began = Date.now() - Number(elapsed?.dataset.elapsed ?? 0) * SECOND_MS;
  let over = false;

  const show = (event) => {
    if (message && message.textContent !== event.message) message.textContent = event.message;
    if (bar) bar.value = Math.max(bar.value, event.progress);
    steps.forEach((step, at) => {
      step.className = at < event.step ? "done" : at === event.step ? "now" : "later";
      if (at === event.step) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    });
  };

  const leave = (go) => {
    over = true;
    source.close();
    go();
  };

  const source = new EventSource(place.dataset.progress);
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.ready || event.failed) {
      if (event.ready) show(event);
      // the failure is told by the page itself, with the button to try again
      leave(() => (event.ready && place.dataset.enter
        ? location.replace(place.dataset.enter) : location.reload()));
    } else {
      show(event);
    }
  };
  source.onerror = () => {
    // the browser comes back by itself, unless it was turned away (signed out in another tab, say)
    if (!over && source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 2 * SECOND_MS);
  };

  if (elapsed) {
    setInterval(() => {
      elapsed.textContent = Math.round((Date.now() - began) / SECOND_MS);
    }, SECOND_MS);
  }
}
