"use strict";
// A page that is opened as a file may start no worker. This stand-in runs a worker's script in a hidden frame, whose
// document is written by the page, so that it counts as the page's own. The theme's search needs no more than this.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!doctype html><meta charset=utf-8>";
      this.ready = new Promise((resolve) => {
        frame.addEventListener("load", () => {
          const inside = frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = inside.document.createElement("script");
          script.src = new URL(address, location.href).href;
          script.addEventListener("load", () => resolve(inside));
          inside.document.head.append(script);
        }, { once: true });
      });
      // a frame that is moved loads anew, so it is put in its place once
      if (document.body && document.readyState !== "loading") document.body.append(frame);
      else document.addEventListener("DOMContentLoaded", () => document.body.append(frame), { once: true });
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
