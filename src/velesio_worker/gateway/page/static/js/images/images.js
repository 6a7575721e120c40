import { html, useCallback, useEffect, useMemo, useRef, useState } from "../html.js";
import { Button } from "../ui/button.js";
import { Icon } from "../ui/icons.js";
import { useChoices } from "./choices.js";
import { Form } from "./form.js";
import { ImageJobs } from "./jobs.js";
import { DEFAULTS, fileName, formOf, jobOf, mistakes, seedOf, sizeLike } from "./parameters.js";
import { fitted, saveAll } from "./picture.js";
import { hasEnded } from "./record.js";
import { EmptyTile, ImageTile, LinkTile, RunningTile } from "./tile.js";
import { Viewer } from "./viewer.js";

const KEY = "velesio.images.form";

function storedForm() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

/** The form; what it holds outlives the page. */
function useForm() {
  const [form, setForm] = useState(storedForm);
  const set = useCallback((change) => setForm((before) => ({ ...before, ...change })), []);
  useEffect(() => {
    try {
      localStorage.setItem(KEY, JSON.stringify(form));
    } catch {
      // it lasts as long as the page
    }
  }, [form]);
  return [form, set];
}

/** The jobs, and a new look at them whenever one changes. */
function useJobs(api, announce) {
  const [, look] = useState(0);
  const jobs = useMemo(() => new ImageJobs(api, { onChange: () => look((count) => count + 1), announce }), [api]);
  useEffect(() => {
    jobs.open();
    return () => jobs.close();
  }, [jobs]);
  return jobs;
}

/** The field of the form that an error is about, and what it says of it. */
function errorOf(error) {
  const field = error.param?.replace(/^data\./, "") ?? "";
  const text = error.message.replace(/^data\.[\w.]+: /, "");
  return field in DEFAULTS ? { [field]: text } : { "": error.message };
}

/** Esc stops what was begun last, unless it closes something. */
function useEscape(active, jobs) {
  useEffect(() => {
    if (!active) {
      return undefined;
    }
    const press = (event) => {
      const running = jobs.list.find((job) => job.state === "waiting" || job.state === "running");
      if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) {
        jobs.stop(running.id);
      }
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [active, jobs]);
}

function tilesOf(job, act) {
  if (!hasEnded(job)) {
    return html`<${RunningTile} key=${job.id} job=${job} jobs=${act.jobs} api=${act.api} />`;
  }
  if (job.links.length) {
    return html`<${LinkTile} key=${job.id} job=${job} jobs=${act.jobs} />`;
  }
  if (!job.images.length) {
    return html`<${EmptyTile} key=${job.id} job=${job} jobs=${act.jobs} onReuse=${act.reuse} />`;
  }
  return job.images.map(
    (blob, number) => html`<${ImageTile}
      key=${`${job.id}/${seedOf(job, number) ?? number}`}
      job=${job}
      number=${number}
      jobs=${act.jobs}
      onOpen=${() => act.open(job, number)}
      onSeed=${() => act.seed(job, number)}
      onStart=${() => act.start(job, number)}
    />`,
  );
}

function Gallery({ act }) {
  const { jobs } = act;
  const ended = jobs.list.filter(hasEnded);
  const files = ended.flatMap((job) => job.images.map((blob, number) => ({ blob, name: fileName(job, number) })));
  const clear = () => {
    if (window.confirm("Delete all images that are kept in this browser?")) {
      jobs.remove(...ended.map(({ id }) => id));
    }
  };
  if (!jobs.list.length) {
    return html`<div class="gallery-empty">
      <span class="gallery-empty-mark"><${Icon} name="image" size=${36} /></span>
      <h2>What you make stands here</h2>
      <p class="muted">Images are kept in this browser, with what they were made from.</p>
    </div>`;
  }
  return html`<div class="gallery-head">
      <h2>Gallery</h2>
      <div class="gallery-acts">
        ${
          files.length > 1 &&
          html`<${Button} icon="download" class="button-quiet" onClick=${() => saveAll(files)}>Download all<//>`
        }
        ${ended.length > 0 && html`<${Button} icon="trash" class="button-quiet" onClick=${clear}>Delete all<//>`}
      </div>
    </div>
    <ul class="gallery">
      ${jobs.list.map((job) => tilesOf(job, act))}
    </ul>`;
}

/**
 * The image tab.
 * @param {{api: object, models: object[] | null, status: object | null, announce: (text: string) => void, active: boolean}} props
 */
export function Images({ api, models, status, announce, active }) {
  const [form, set] = useForm();
  const [errors, setErrors] = useState({});
  const [start, setStart] = useState(null);
  const [busy, setBusy] = useState(false);
  const [viewed, setViewed] = useState(null);
  const fields = useRef(null);
  const made = useRef(null);
  const jobs = useJobs(api, announce);
  const choices = useChoices({ api, models, status, active });
  useEscape(active, jobs);
  useEffect(() => jobs.resume(), [jobs, status]);

  const change = useCallback((part) => {
    set(part);
    setErrors((before) => Object.fromEntries(Object.entries(before).filter(([field]) => field && !(field in part))));
  }, []);
  const takeStart = useCallback(
    (blob, size) => {
      setStart(blob);
      if (blob && size) {
        change(sizeLike(size.width, size.height, 512 * 512));
      }
    },
    [change],
  );
  const toForm = () => fields.current.scrollIntoView({ block: "start" });
  const act = {
    api,
    jobs,
    open: (job, number) => setViewed({ id: job.id, number }),
    reuse: (job, number) => {
      change(formOf(job, number));
      announce("The settings are in the form");
      toForm();
    },
    seed: (job, number) => {
      change({ seed: String(seedOf(job, number)) });
      announce("The seed is in the form");
    },
    start: (job, number) => {
      setStart(job.images[number]);
      const { width, height } = { ...job.data, ...job.parameters };
      change({ width: String(width), height: String(height) });
      announce("The image is the start image");
      toForm();
    },
  };

  async function submit() {
    const wrong = mistakes(form);
    setErrors(wrong);
    if (Object.keys(wrong).length) {
      requestAnimationFrame(() => fields.current.querySelector("[aria-invalid=true]")?.focus());
      return;
    }
    setBusy(true);
    try {
      const { type, data } = jobOf(form, start && (await fitted(start, Number(form.width), Number(form.height))));
      await jobs.submit(type, data);
      announce("The image waits for a worker");
      if (window.matchMedia("(max-width: 860px)").matches) {
        made.current.scrollIntoView({ block: "start" }); // it is below the form there
      }
    } catch (error) {
      setErrors(errorOf(error));
    }
    setBusy(false);
  }

  const none = status !== null && !status.workers.some(({ engines }) => engines.image);
  const job = viewed && jobs.list.find(({ id }) => id === viewed.id);
  return html`<div class="images">
    <section class="images-form" ref=${fields} aria-label="What to make">
      <h1 class="sr-only">Images</h1>
      <${Form}
        form=${form}
        set=${change}
        errors=${errors}
        start=${start}
        onStart=${takeStart}
        choices=${choices}
        active=${active}
        busy=${busy}
        blocked=${none}
        onSubmit=${submit}
      />
    </section>
    <section class="images-made" ref=${made} aria-label="What was made">
      <${Gallery} act=${act} />
    </section>
    ${
      job?.images[viewed.number] &&
      html`<${Viewer}
        job=${job}
        number=${viewed.number}
        onClose=${() => setViewed(null)}
        onReuse=${() => act.reuse(job, viewed.number)}
        onSeed=${() => act.seed(job, viewed.number)}
        onStart=${() => act.start(job, viewed.number)}
      />`
    }
  </div>`;
}
