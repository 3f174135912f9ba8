"use strict";
// A reader's decisions on lesions and visits: kept in the page, saved as one JSON file a visit.
(function () {
  class Form {
    constructor(form) {
      this.form = form;
      this.sum = form.querySelector(".sum");
      this.rows = Array.from(document.querySelectorAll(`tr[data-visit="${form.dataset.visit}"]`));
      this.changed = false;
      for (const row of this.rows) {
        row.querySelector(".decide input").addEventListener("change", () => this.update(true));
      }
      form.addEventListener("input", (event) => {
        if (event.target.type !== "file") this.update(true);
      });
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.save();
      });
      const file = form.querySelector('input[type="file"]');
      file.addEventListener("change", () => file.files[0]?.text().then((text) => {
        this.read(text);
        file.value = ""; // so that the same file can be chosen again
      }));
      this.update(false);
    }

    decided() {
      return this.rows.filter((row) => row.querySelector(".decide input").checked);
    }

    update(changed) {
      this.changed ||= changed;
      let change = 0;
      const counts = { kept: 0, rejected: 0 };
      for (const row of this.rows) {
        const on = row.querySelector(".decide input").checked;
        row.classList.toggle("struck", on && row.dataset.status === "kept");
        row.classList.toggle("raised", on && row.dataset.status === "rejected");
        if (!on) continue;
        counts[row.dataset.status] += 1;
        change += (row.dataset.status === "kept" ? -1 : 1) * Number(row.dataset.volume) / 1000;
      }
      const load = Number(this.form.dataset.load);
      const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
      const parts = [`${counted(counts.kept, "lesion")} rejected, ${counted(counts.rejected, "candidate")} marked as lesion`];
      if (this.form.dataset.load) parts.push(`load ${load.toFixed(2)} → ${(load + change).toFixed(2)} mL`);
      if (this.changed) parts.push("not saved yet");
      this.sum.textContent = parts.join(" · ");
    }

    content() {
      const { participant, session, mask, format } = this.form.dataset;
      const field = (name) => this.form.elements[name].value.trim();
      return {
        format, participant_id: participant, session_id: session || null, mask_sha256: mask,
        saved: new Date().toISOString(), rater: field("rater"), rating: field("rating") || null, comment: field("comment"),
        lesions: this.decided().map((row) => ({
          index: Number(row.dataset.index), status: row.dataset.status,
          volume_mm3: Number(row.dataset.volume),
          decision: row.dataset.status === "kept" ? "reject" : "keep",
        })),
      };
    }

    save() {
      const text = JSON.stringify(this.content(), null, 2) + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = `${this.form.dataset.prefix}_desc-qc_rating.json`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      this.changed = false;
      this.update(false);
    }

    read(text) {
      const refuse = (why) => { this.sum.textContent = "This file cannot be used: " + why; };
      let saved;
      try {
        saved = JSON.parse(text);
      } catch {
        return refuse("it is not JSON.");
      }
      const { participant, session, mask, format } = this.form.dataset;
      if (saved?.format !== format || !Array.isArray(saved.lesions)) return refuse("it is not a QC file of this version.");
      if (saved.participant_id !== participant || (saved.session_id ?? "") !== session) return refuse("it belongs to another visit.");
      if (saved.mask_sha256 !== mask) return refuse("it belongs to another mask of this visit.");
      const on = new Set(saved.lesions.map((one) => `${one.status} ${one.index}`));
      for (const row of this.rows) {
        row.querySelector(".decide input").checked = on.has(`${row.dataset.status} ${row.dataset.index}`);
      }
      for (const name of ["rater", "comment", "rating"]) this.form.elements[name].value = saved[name] ?? "";
      this.changed = false;
      this.update(false);
    }
  }

  for (const cell of document.querySelectorAll(".decide")) cell.hidden = false;
  const forms = Array.from(document.querySelectorAll("form.qc"), (form) => {
    form.hidden = false;
    return new Form(form);
  });
  window.addEventListener("beforeunload", (event) => {
    if (forms.some((form) => form.changed)) event.preventDefault();
  });
})();
