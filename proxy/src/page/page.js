// Keeps the page live: asks for the sections that changed, and changes what differs in them.
"use strict";
(() => {
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  const main = document.getElementById("main");
  let paused = false;
  let timer = 0;
  let asked = 0;
  let failures = 0;

  const say = (text) => {
    if (live.textContent !== text) live.textContent = text;
    live.dataset.state = text.toLowerCase();
  };

  // Makes `old` what `fresh` is, and leaves alone what is the same: focus, selections and transitions stay.
  const change = (old, fresh) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE || old.hasAttribute("data-own")) return;
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      // Whether details are open is the visitor's choice.
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    if (old !== document.activeElement && old.tagName === "INPUT") old.value = fresh.value;
    const named = new Map();
    for (const child of old.children) if (child.id) named.set(child.id, child);
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const same = wanted.id ? named.get(wanted.id) : at;
      if (same && same.nodeName === wanted.nodeName && (wanted.id || !same.id)) {
        if (same !== at) old.insertBefore(same, at);
        change(same, wanted);
        at = same.nextSibling;
      } else {
        old.insertBefore(document.importNode(wanted, true), at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB"];
    let unit = 0;
    for (; bytes >= 1024 && unit < 3; unit++) bytes /= 1024;
    return `${bytes.toFixed(unit ? 1 : 0)} ${units[unit]}`;
  };

  // How fast downloads come, from what two answers say.
  const seen = new Map();
  const rates = () => {
    const now = performance.now();
    const there = new Set();
    for (const fill of document.querySelectorAll(".fills > li")) {
      there.add(fill.id);
      const bytes = Number(fill.dataset.bytes);
      const whole = Number(fill.dataset.size);
      const before = seen.get(fill.id);
      const rate = fill.querySelector(".rate");
      if (before && now > before.now) {
        const speed = Math.max(0, ((bytes - before.bytes) / (now - before.now)) * 1000);
        const smooth = before.speed === undefined ? speed : before.speed * 0.6 + speed * 0.4;
        const left = whole && smooth > 1 ? `, ${Math.ceil((whole - bytes) / smooth)} s left` : "";
        rate.textContent = `, ${size(smooth)}/s${left}`;
        seen.set(fill.id, { bytes, now, speed: smooth });
      } else if (!before) {
        seen.set(fill.id, { bytes, now });
      }
    }
    for (const id of seen.keys()) if (!there.has(id)) seen.delete(id);
  };

  const ask = async () => {
    clearTimeout(timer);
    const turn = ++asked;
    const known = [...main.querySelectorAll(":scope > [data-revision]")].map(
      (section) => `${section.id}-${section.dataset.revision}`,
    );
    const query = new URLSearchParams(location.search);
    query.set("known", known.join(","));
    try {
      const answer = await fetch(`live?${query}`, { cache: "no-store", signal: AbortSignal.timeout(15000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const text = await answer.text();
      // Somebody chose something else meanwhile.
      if (turn !== asked) return;
      const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
      main.dataset.every = fresh.dataset.every;
      for (const section of fresh.children) {
        if (!section.hasAttribute("data-kept")) change(document.getElementById(section.id), section);
      }
      rates();
      failures = 0;
      say(paused ? "Paused" : "Live");
    } catch {
      if (turn !== asked) return;
      failures += 1;
      say("Not connected");
    }
    again();
  };

  const again = () => {
    clearTimeout(timer);
    if (paused || document.hidden) return;
    const every = failures ? Math.min(15, 2 ** failures) : Number(main.dataset.every);
    timer = setTimeout(ask, every * 1000);
  };

  const go = (link) => {
    history.replaceState(null, "", link);
    ask();
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-live]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });

  let typing = 0;
  const filter = (form) => {
    clearTimeout(typing);
    const query = new URLSearchParams(new FormData(form));
    if (!query.get("filter")) query.delete("filter");
    go(`?${query}#images`);
  };
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-live]");
    clearTimeout(typing);
    if (form) typing = setTimeout(() => filter(form), 150);
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-live]")) return;
    event.preventDefault();
    filter(event.target);
  });

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused" : "Live");
    if (paused) clearTimeout(timer);
    else ask();
  });
  // Nobody looks: nobody asks.
  document.addEventListener("visibilitychange", () => (document.hidden || paused ? clearTimeout(timer) : ask()));

  live.hidden = pause.hidden = false;
  say("Live");
  rates();
  again();
})();
