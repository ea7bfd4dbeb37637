"use strict";

/** What the service has against a request: its status, and the fields that are wrong. */
class Refused extends Error {
  constructor(message, status, errors) {
    super(message);
    Object.assign(this, { status, errors });
  }
}

/** Sends a request to the API. Throws an Error whose message says what is wrong; one of the service is Refused. */
async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const text = await response.text();
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // not JSON: a proxy between here and the service answered
  }
  const { status } = response;
  if (!response.ok) throw new Refused(answer?.detail ?? `The service answered with status ${status}.`, status, answer?.errors ?? []);
  return answer;
}

/** Idempotency keys of requests that have not succeeded, by path and body. */
const keys = new Map();

/** Posts JSON. If the answer was lost, the same request has the same key, so it has one effect. */
async function post(path, body) {
  const text = JSON.stringify(body);
  const request = `${path} ${text}`;
  if (!keys.has(request)) keys.set(request, crypto.getRandomValues(new Uint32Array(4)).join("-"));
  const headers = { "Content-Type": "application/json", "Idempotency-Key": keys.get(request) };
  const answer = await send(path, { method: "POST", body: text, headers });
  keys.delete(request);
  return answer;
}

/** Returns a time as people say it, such as 25 hours. */
function duration(seconds) {
  const units = [["second", 1, 90], ["minute", 60, 90], ["hour", 3600, 48], ["day", 86400, Infinity]];
  const [unit, size] = units.find(([, size, most]) => seconds < size * most);
  const count = Math.max(1, Math.round(seconds / size));
  return `${count.toLocaleString("en")} ${unit}${count > 1 ? "s" : ""}`;
}

/** Says why a request failed. Where the session has ended, a link leads to a new one in another tab. */
function sayError(place, error, next) {
  const [text, isWrong] = [error.message, true];
  if (error.status !== 401) return say(place, text, isWrong);
  say(place, "You are not signed in any more. ", isWrong);
  const link = document.createElement("a");
  Object.assign(link, { href: `/sign-in?${new URLSearchParams({ next: location.pathname + location.search })}`, target: "_blank" });
  link.textContent = "Sign in again in a new tab";
  place.append(link, `, then ${next} here.`);
}

const signIn = document.querySelector('header a[href="/sign-in"]');
if (signIn && location.pathname !== "/sign-in") {
  signIn.href += `?${new URLSearchParams({ next: location.pathname + location.search })}`;
}

const count = (number) => number.toLocaleString("en");

const LONGEST_MIN = 10080; // most minutes that the service allows for an optimizer

const listed = (items) => new Intl.ListFormat("en-GB").format(items);

/** Says what a job costs, and for which trials the minutes of an optimizer are too few. */
function cost(plan) {
  const short = plan.arms.filter((arm) => arm.trials_in_time < arm.trials);
  const without = short.filter((arm) => !arm.trials_in_time);
  const none = `o trial of ${listed(without.map((arm) => arm.name))}`;
  if (without.some((arm) => arm.role !== "untuned")) {
    return `The job would probably fail: n${none} would be done within the minutes for each optimizer; ${enough(short)}.`;
  }
  const all = count(plan.trials);
  const trials = short.length ? `About ${count(plan.trials_in_time)} of ${all}` : all;
  const sentence = `${trials} trials and ${count(plan.confirm_runs)} runs on fresh seeds, about ${duration(plan.seconds)}.`;
  const fit = short.filter((arm) => arm.trials_in_time)
    .map((arm) => `about ${count(arm.trials_in_time)} of ${count(arm.trials)} trials of ${arm.name}`);
  if (fit.length) return `${sentence} Only ${listed(fit)} fit into the minutes for each optimizer; ${enough(short)}.`;
  return without.length ? `${sentence} N${none} fits into the minutes for each optimizer; ${enough(short)}.` : sentence;
}

/** Says what to do so that all trials fit into the minutes. */
function enough(short) {
  const longest = Math.max(...short.map((arm) => arm.search_seconds)) / 60;
  if (longest > LONGEST_MIN) {
    return `all would take about ${count(Math.ceil(longest))}, and at most ${count(LONGEST_MIN)} are allowed: give fewer trials or steps`;
  }
  return `for all, give about ${count(Math.min(Math.ceil(1.1 * longest), LONGEST_MIN))}`;
}

/** Returns what is wrong with a field as a sentence without its name. Hints about the API are left out. */
function sentence({ message, hint }, name = "The file's name") {
  return [`${name} ${message}.`, /\/v1\/|[a-z]\.[a-z]/.test(hint ?? "") ? "" : hint].filter(Boolean).join(" ");
}

function say(place, text, isWrong = false) {
  place.textContent = text;
  place.classList.toggle("wrong", isWrong);
}

const upload = document.querySelector("#upload");
if (upload) {
  const input = upload.querySelector("input");
  const said = upload.querySelector(".said");
  const clear = () => { // a file that is chosen again would be no change
    input.value = "";
    say(said, "");
  };
  addEventListener("pageshow", clear); // after a step back, the browser has filled in the file again
  const take = async (file) => {
    if (!file) return;
    say(said, `Reading ${file.name} …`);
    try {
      const filename = [...file.name].slice(-100).join(""); // the service keeps no more
      const dataset = await send(`/v1/datasets?${new URLSearchParams({ filename })}`, { method: "POST", body: file });
      location.href = `/new?id=${dataset.id}`;
    } catch (error) {
      const isThere = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
      const changed = `${file.name} can no longer be read: it has changed, or it is a folder. Choose the file again.`;
      input.value = "";
      if (!isThere) say(said, changed, true);
      else sayError(said, error.errors?.length ? new Error(error.errors.map((one) => sentence(one)).join(" ")) : error, "choose the file again");
    }
  };
  input.addEventListener("change", () => take(input.files[0]));
  upload.addEventListener("submit", (event) => event.preventDefault());
  upload.addEventListener("dragover", (event) => {
    event.preventDefault();
    upload.classList.add("over");
  });
  upload.addEventListener("dragleave", () => upload.classList.remove("over"));
  upload.addEventListener("drop", (event) => {
    event.preventDefault();
    upload.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

const form = document.querySelector("#new");
if (form) {
  const data = JSON.parse(form.dataset.dataset);
  const said = form.querySelector("#estimate");
  const button = form.querySelector("[type=submit]");
  const field = (name) => form.elements.namedItem(name);

  const typeOf = (column) => form.querySelector(`[data-column="${CSS.escape(column)}"]`)?.value;
  const target = () => `${typeOf(field("target")?.value ?? "")} ${field("target")?.value}`;
  const told = new Map(); // the task of each target, as the service said it for one of this type

  /** Returns the task and why it is that one; undefined until the service says it for a target of another type. */
  const task = () => {
    if (data.task) return [data.task];
    const { value, dataset } = field("target").selectedOptions[0];
    return told.get(target()) ?? (typeOf(value) ? undefined : [dataset.task, dataset.reason]);
  };

  const showTask = () => {
    const [name, reason] = task() ?? [];
    form.querySelector("#task").textContent = reason ? `This is a ${name} task: ${reason}.` : "";
    if (!task()) return;
    for (const option of field("metric").options) {
      option.hidden = option.disabled = Boolean(option.dataset.tasks) && !option.dataset.tasks.split(" ").includes(name);
      if (option.disabled && option.selected) field("metric").value = "val_loss";
    }
  };

  const spec = () => {
    const columns = [...form.querySelectorAll("[data-column]")].filter((select) => select.value);
    const [by, ...name] = (field("split")?.value ?? "").split(":");
    return {
      name: field("name").value,
      dataset: {
        ...(data.id ? { id: data.id } : { name: data.name }),
        ...(field("target") ? { target: field("target").value } : {}),
        ...(columns.length ? { columns: Object.fromEntries(columns.map((select) => [select.dataset.column, select.value])) } : {}),
        ...(by ? { split: { by, column: name.join(":") } } : {}),
      },
      model: data.model,
      objective: { metric: field("metric").value },
      budget: {
        trials_per_arm: Number(field("trials").value),
        steps: Number(field("steps").value),
        max_seconds: 60 * Number(field("minutes").value),
      },
    };
  };

  const FIELDS = {
    "dataset.target": "target",
    "dataset.split": "split",
    "objective.metric": "metric",
    "budget.trials_per_arm": "trials",
    "budget.steps": "steps",
    "budget.max_seconds": "minutes",
    name: "name",
  };
  const COLUMN = "dataset.columns.";

  /** Returns the control of a field of the spec; undefined if the form has none. */
  const control = (path) => path.startsWith(COLUMN)
    ? form.querySelector(`[data-column="${CSS.escape(path.slice(COLUMN.length))}"]`)
    : field(FIELDS[path] ?? FIELDS[path.replace(/\.\w+$/, "")] ?? "");

  /** Returns what a control is called on the page. */
  const nameOf = (one) => one.dataset.column ? `Column ${one.dataset.column}` : one.labels[0].firstChild.textContent.trim();

  /** Marks the controls that are wrong, and says what is wrong with each. */
  const refuse = (error, next) => {
    const wrong = (error.errors ?? []).map((one) => [one, control(one.field)]);
    for (const [, one] of wrong) one?.setAttribute("aria-invalid", "true");
    if (wrong.length && wrong.every(([, one]) => one)) {
      say(said, wrong.map(([problem, one]) => sentence(problem, `${nameOf(one)}:`)).join(" "), true);
    } else if (wrong.some(([{ field }]) => field === "dataset.id")) {
      say(said, "This file was deleted. Go to the page Jobs and choose it again.", true);
    } else {
      sayError(said, error, next);
    }
    return wrong[0]?.[1];
  };

  const settle = () => {
    for (const one of form.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
  };

  const hint = said.textContent;
  let asked = 0;
  const estimate = async () => {
    const mine = ++asked;
    settle();
    if (!form.checkValidity()) {
      const wrong = form.querySelector(":is(input, select):invalid");
      say(said, wrong.name === "target" ? hint : `${nameOf(wrong)}: ${wrong.validationMessage}`, wrong.name !== "target");
      return;
    }
    say(said, "Timing a few steps …");
    try {
      const wanted = spec();
      const about = target();
      if (!task()) wanted.objective.metric = "val_loss"; // the one that fits every task
      const plan = await post("/v1/jobs?dry_run=true", wanted);
      const [name, ...reason] = plan.task.split(": ");
      told.set(about, [name, reason.join(": ")]);
      showTask();
      const fails = plan.warnings.some((one) => one.startsWith("the job would fail"));
      const warnings = plan.warnings.map(
        (one) => `Note: ${one.replace("say ignore in dataset.columns", "choose ignore below").replace(" (dataset.split)", "")}.`
      );
      if (mine === asked) say(said, [cost(plan), ...warnings, plan.similar?.sentence].filter(Boolean).join(" "), fails);
    } catch (error) {
      if (mine === asked) refuse(error, "change a field");
    }
  };

  let timer;
  form.addEventListener("input", () => {
    showTask();
    clearTimeout(timer);
    timer = setTimeout(estimate, 700);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearTimeout(timer);
    asked += 1;
    button.disabled = true;
    settle();
    say(said, "Starting …");
    try {
      const job = await post("/v1/jobs", spec());
      location.href = `/jobs/${job.id}`;
    } catch (error) {
      refuse(error, "press Start")?.focus();
      button.disabled = false;
    }
  });
  addEventListener("pageshow", () => { // after a step back, the browser has filled in the form again only now
    button.disabled = false;
    showTask();
    estimate();
  });
}

/** Sends what a button asks for. If that fails, it says why, and the button works again. */
async function press(button, request) {
  button.disabled = true;
  try {
    await request();
  } catch (error) {
    alert(error.message);
    button.disabled = false;
  }
}

document.addEventListener("click", async (event) => {
  const { copy, cancel, post: path, body } = event.target.dataset ?? {};
  if (copy) {
    const code = document.getElementById(copy);
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(code.textContent);
      event.target.textContent = "Copied";
    } else {
      getSelection().selectAllChildren(code); // browsers let no page copy that came over plain HTTP from elsewhere
      event.target.textContent = "Selected: press Ctrl+C";
    }
  }
  if (cancel && confirm("Cancel this job? Its trials so far are kept.")) {
    await press(event.target, () => send(cancel, { method: "POST" }));
  }
  if (path) {
    await press(event.target, async () => {
      await (body ? post(path, JSON.parse(body)) : send(path, { method: "POST" }));
      location.reload();
    });
  }
});

document.addEventListener("submit", (event) => {
  if (event.target.id === "jobs" && event.target.querySelectorAll(":checked").length < 2) {
    event.preventDefault();
    say(event.target.querySelector(".said"), "Choose two jobs or more.", true);
  }
});

/** Returns the part of the page that moves, if there is one; data-live says after how many milliseconds at the latest. */
function livePart() {
  return document.querySelector("[data-live]");
}

/** Returns the element of the fresh part that is what an element of the old one was; none if it is gone. */
function counterpart(element, live, fresh) {
  const all = (part) => [...part.querySelectorAll(element.localName)];
  const kind = (one) => one.id || one.value || one.getAttribute("href") || one.dataset.post || one.textContent;
  if (element.localName === "summary") return fresh.querySelector(`#${element.parentElement.id} > summary`);
  if (element.matches(".wide, pre")) return all(fresh)[all(live).indexOf(element)];
  return all(fresh).find((one) => kind(one) === kind(element));
}

/** Loads the part that moves again, and keeps what the reader has opened, chosen, scrolled to and focused. */
async function refresh() {
  const live = livePart();
  const selected = getSelection();
  const isBusy = live.matches(":active") || (!selected.isCollapsed && live.contains(selected.anchorNode));
  if (document.hidden || isBusy) return;
  let answer, text;
  try {
    answer = await fetch(location.href);
    text = await answer.text();
  } catch {
    sayAway(live);
    return;
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  if ([401, 403].includes(answer.status)) {
    location.reload(); // it leads to the page to sign in, or says what is not allowed
    return;
  }
  if (!answer.ok && !(answer.status === 404 && page.getElementById("main"))) {
    sayAway(live); // in a moment it may answer again; a 404 that is no page of ours is from a proxy
    return;
  }
  const fresh = page.getElementById(live.id);
  if (!fresh) {
    location.reload(); // the job is gone, or the last job of the list
    return;
  }
  for (const details of live.querySelectorAll("details[open]")) {
    fresh.querySelector(`#${details.id}`)?.setAttribute("open", "");
  }
  for (const box of live.querySelectorAll("input:checked")) {
    fresh.querySelector(`input[value="${box.value}"]`)?.setAttribute("checked", "");
  }
  const focused = live !== document.activeElement && live.contains(document.activeElement) ? document.activeElement : null;
  const focus = focused && counterpart(focused, live, fresh);
  const scrolled = [...live.querySelectorAll(".wide, pre")].filter((one) => one.scrollLeft);
  const places = scrolled.map((one) => [counterpart(one, live, fresh), one.scrollLeft]);
  live.replaceWith(fresh);
  for (const [one, left] of places) one?.scrollTo({ left });
  focus?.focus({ preventScroll: true });
  document.title = page.title;
}

/** Says that the page may be old, once. */
function sayAway(live) {
  if (live.querySelector("#away")) return;
  const words = document.createElement("p");
  words.id = "away";
  words.className = "warning";
  words.setAttribute("role", "alert");
  const now = new Date().toLocaleTimeString([], { timeZoneName: "short" });
  words.textContent = `The service does not answer. This was so at ${now}.`;
  live.prepend(words);
}

/** Keeps the page up to date while something in it moves: at each event of its job, and now and then. */
async function follow() {
  let wake = () => {};
  let stream = null;
  const listen = () => {
    const { events } = livePart()?.dataset ?? {};
    if (!events || document.hidden) {
      stream?.close(); // a browser has six connections to a service, and a stream holds one
      stream = null;
    } else if (!stream || stream.readyState === EventSource.CLOSED) {
      stream = new EventSource(events);
      stream.addEventListener("message", () => wake());
    }
  };
  document.addEventListener("visibilitychange", () => {
    listen();
    wake();
  });
  while (livePart()) {
    listen();
    await new Promise((done) => setTimeout(done, 500)); // many events at once are one refresh
    await new Promise((done) => {
      wake = done;
      setTimeout(done, Number(livePart().dataset.live));
    });
    await refresh();
  }
  stream?.close();
}
follow();
