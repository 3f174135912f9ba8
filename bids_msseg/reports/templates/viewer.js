"use strict";
// The viewer of each visit: niivue on the images that the page carries, tied to the lesion table.
(function () {
  const COLOURS = {
    lesions: { R: [0, 255, 255], G: [0, 140, 140], B: [0, 0, 0], A: [0, 255, 255], I: [0, 1, 255] },
    rejected: { R: [0, 86, 86], G: [0, 180, 180], B: [0, 233, 233], A: [0, 255, 255], I: [0, 1, 255] },
  };
  const STEPS = {
    ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
    PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };
  const DRAWING = { R: [0, 255], G: [0, 90], B: [0, 220], A: [0, 255], I: [0, 1] };
  const FLICKER_MS = 600;

  function canDraw() {
    try {
      const context = document.createElement("canvas").getContext("webgl2");
      context?.getExtension("WEBGL_lose_context")?.loseContext();
      return Boolean(context) && typeof niivue === "object";
    } catch {
      return false;
    }
  }

  class Viewer {
    constructor(box) {
      this.box = box;
      this.visit = box.dataset.visit;
      this.place = box.querySelector(".place");
      this.canvas = box.querySelector("canvas");
      this.rows = Array.from(document.querySelectorAll(`tr[data-visit="${this.visit}"][data-mm]`));
      this.images = {};
      this.row = null;
      this.strokes = [];
      this.unsaved = false;
      box.addEventListener("input", () => this.opened?.then(() => this.paint()));
      box.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) this.act(button.dataset.do);
      });
      this.canvas.addEventListener("keydown", (event) => this.key(event), true);
    }

    chosen(name) {
      return this.box.querySelector(`input[name="${this.visit}-image"]:checked`).value === name;
    }

    open() {
      this.opened ??= this.load().catch((error) => {
        this.place.textContent = "The images could not be opened: " + error.message;
        throw error;
      });
      return this.opened;
    }

    async load() {
      this.nv = new niivue.Niivue({
        backColor: [0, 0, 0, 1], crosshairColor: [0.55, 0.8, 1, 0.85], crosshairWidth: 0.7,
        crosshairWidthUnit: "mm", crosshairGap: 6, dragAndDropEnabled: false, loadingText: "",
        isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: false,
        multiplanarShowRender: niivue.SHOW_RENDER.NEVER, fontMinPx: 14, fontSizeScaling: 0.3, logLevel: "error",
      });
      await this.nv.attachToCanvas(this.canvas, false);
      for (const [name, colours] of Object.entries(COLOURS)) this.nv.addColormap(name, colours);
      const source = `script[id^="${this.visit}-layer-"]`;
      for (const script of document.querySelectorAll(source)) {
        const name = script.id.slice(`${this.visit}-layer-`.length);
        const display = this.displayOptions(name);
        const image = await niivue.NVImage.loadFromBase64({
          base64: script.textContent, name: name + ".nii.gz", ...display,
        });
        this.images[name] = image;
        this.nv.addVolume(image);
      }
      this.nv.setDrawColormap(DRAWING);
      this.nv.setDrawOpacity(0.6);
      this.nv.onMouseUp = () => this.note();
      this.nv.onLocationChange = (where) => this.showPosition(where);
      this.paint();
      if (this.rows.length) this.show(this.rows[0], false);
      else this.nv.createOnLocationChange();
      this.box.dataset.ready = "true";
    }

    displayOptions(name) {
      if (name in COLOURS) return { colormap: name, opacity: 0, cal_min: 0, cal_max: 255 };
      if (name === "probability") return { colormap: "warm", opacity: 0, cal_min: 5, cal_max: 100 };
      return { colormap: "gray", opacity: 1, cal_min: 0, cal_max: 127 };
    }

    paint() {
      const layers = new Set(
        Array.from(this.box.querySelectorAll(`input[name="${this.visit}-layer"]:checked`), (one) => one.value));
      const opacity = this.box.querySelector('input[type="range"]').value / 100;
      for (const [name, image] of Object.entries(this.images)) {
        const isOverlay = name in COLOURS || name === "probability";
        image.opacity = isOverlay ? (layers.has(name) ? opacity : 0) : Number(this.isShown(name));
        if (isOverlay || !image.opacity) continue;
        this.box.dataset.image = name;
        if (this.nv.volumes[0] !== image) this.nv.setVolume(image, 0);
      }
      const views = { all: "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL" };
      const view = this.box.querySelector("select").value;
      this.nv.updateGLVolume();
      this.nv.setSliceType(niivue.SLICE_TYPE[views[view]]);
    }

    isShown(name) {
      return this.swapped ? name === Object.keys(this.images)[0] : this.chosen(name);
    }

    show(row, scroll = true) {
      this.row?.classList.remove("current");
      this.row?.removeAttribute("aria-current");
      this.row = row;
      row.classList.add("current");
      row.setAttribute("aria-current", "true");
      const millimetres = row.dataset.mm.split(" ").map(Number);
      if (row.dataset.status === "rejected") this.layer("rejected", true);
      this.nv.scene.crosshairPos = this.nv.mm2frac(millimetres, 0, true); // true: also where the grid is oblique
      this.nv.drawScene();
      this.nv.createOnLocationChange();
      if (scroll) row.scrollIntoView({ block: "nearest" });
    }

    layer(name, on) {
      const input = this.box.querySelector(`input[name="${this.visit}-layer"][value="${name}"]`);
      if (!input || input.checked === on) return;
      input.checked = on;
      this.paint();
    }

    act(what) {
      this.open().then(() => {
        if (["flicker", "draw", "undo", "save"].includes(what)) this[what]();
        const step = { next: 1, previous: -1 }[what];
        const rows = this.rows.filter((row) => row.offsetParent);
        if (!step || !rows.length) return;
        const place = rows.indexOf(this.row);
        const first = place < 0 && step < 0 ? 0 : place;
        this.show(rows[(first + step + rows.length) % rows.length]);
      });
    }

    flicker() {
      const button = this.box.querySelector('[data-do="flicker"]');
      const running = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!running));
      clearTimeout(this.timer);
      this.swapped = false;
      if (running) return this.paint();
      if (this.chosen(Object.keys(this.images)[0])) {
        this.box.querySelectorAll(`input[name="${this.visit}-image"]`)[1].checked = true;
      }
      const turn = () => {
        this.swapped = !this.swapped;
        this.paint();
        this.timer = setTimeout(turn, FLICKER_MS);
      };
      turn();
    }

    draw() {
      const button = this.box.querySelector('[data-do="draw"]');
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      this.nv.setDrawingEnabled(on);
      this.nv.setPenValue(1, true); // true: outlines are filled
    }

    // Keep what a stroke has added. The undo of niivue passes over clicks and goes round in a circle.
    note() {
      const drawing = this.nv.drawBitmap;
      if (!drawing) return;
      this.drawn ??= new Uint8Array(drawing.length);
      const added = [];
      for (let i = 0; i < drawing.length; i += 1) if (drawing[i] && !this.drawn[i]) added.push(i);
      if (!added.length) return;
      for (const i of added) this.drawn[i] = 1;
      this.strokes.push(added);
      this.count(true);
    }

    undo() {
      this.note();
      const last = this.strokes.pop();
      if (!last) return;
      for (const i of last) this.nv.drawBitmap[i] = this.drawn[i] = 0;
      this.nv.refreshDrawing(true);
      this.count(this.strokes.length > 0);
    }

    count(unsaved) {
      this.unsaved = unsaved;
      this.box.dataset.drawn = this.strokes.reduce((sum, stroke) => sum + stroke.length, 0);
      this.nv.createOnLocationChange();
    }

    async save() {
      this.note();
      if (!this.strokes.length) {
        this.place.textContent = "Nothing is drawn yet.";
        return;
      }
      const filename = `${this.box.dataset.prefix}_space-FLAIR_desc-drawn_mask.nii.gz`;
      await this.nv.saveImage({ filename, isSaveDrawing: true, volumeByIndex: 0 });
      this.count(false);
    }

    key(event) {
      const step = STEPS[event.key];
      const act = { n: "next", p: "previous", f: "flicker", d: "draw", u: "undo" }[event.key.toLowerCase()];
      if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
      event.stopImmediatePropagation();
      if (step) this.nv?.moveCrosshairInVox(...step);
      else if (act && (act !== "flicker" || this.box.querySelector('[data-do="flicker"]'))) this.act(act);
      else if (event.key.toLowerCase() === "m") {
        const input = this.box.querySelector('input[value="lesions"]');
        if (input) this.layer("lesions", !input.checked);
      } else return;
      event.preventDefault();
    }

    showPosition(where) {
      const [x, y, z] = this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true);
      const words = [`${x.toFixed(1)}, ${y.toFixed(1)}, ${z.toFixed(1)} mm`];
      const values = Object.fromEntries(where.values.map((one) => [one.name.replace(".nii.gz", ""), one.value]));
      if (values.lesions) words.push(`lesion ${values.lesions}`);
      if (values.rejected) words.push(`rejected candidate ${values.rejected}`);
      if (values.probability) words.push(`probability ${(values.probability / 100).toFixed(2)}`);
      if (this.strokes.length) {
        const [, dx, dy, dz] = this.nv.volumes[0].hdr.pixDims;
        words.push(`drawn ${(this.box.dataset.drawn * dx * dy * dz / 1000).toFixed(2)} mL${this.unsaved ? ", not saved yet" : ""}`);
      }
      this.place.textContent = words.join(" · ");
      this.box.dataset.mm = [x, y, z].map((one) => one.toFixed(2)).join(" ");
    }
  }

  if (!canDraw()) return;
  const viewers = {};
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) viewers[entry.target.dataset.visit].open();
  }, { rootMargin: "200px" });
  for (const box of document.querySelectorAll(".viewer")) {
    document.querySelector(`.viewer-off[data-visit="${box.dataset.visit}"]`).hidden = true;
    box.hidden = false;
    viewers[box.dataset.visit] = new Viewer(box);
    watch.observe(box);
  }
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-mm]");
    const viewer = row && viewers[row.dataset.visit];
    if (!viewer || event.target.closest("input, label, a")) return;
    viewer.open().then(() => {
      viewer.show(row, false);
      viewer.box.scrollIntoView({ block: "nearest" });
    });
  });
  window.addEventListener("beforeunload", (event) => {
    if (Object.values(viewers).some((viewer) => viewer.unsaved)) event.preventDefault();
  });
})();
