// What train.js does beside the page: this file follows it in the source of a Web Worker.
//
// In:  {do: "start", text, settings, length: {seconds} or {steps}}, {do: "pause"},
//      {do: "go on", length}, {do: "rate", rate}.
// Out: {kind: "progress", step, seconds, trainLoss} about ten times a second,
//      {kind: "measure", step, seconds, trainLoss, valLoss, words, sample} ever more rarely,
//      {kind: "stopped", finished}, {kind: "fault", message}.
//
// `seconds` counts training alone: the clock stands while losses are measured and text is written.

const SLICE = 90; // milliseconds of training between two looks at the messages
const MEASURED = 8192; // characters of validation text, always the same ones
let run = null;

/** The next step at which to measure: often at first, when much changes, then ever more rarely. */
function nextMeasure(step) {
  return Math.ceil(step * 1.3) + 1;
}

/** The share of the words of a sample that occur in the text; its last word may be cut off. */
function shareOfWords(sample, known) {
  const words = (sample.toLowerCase().match(/[a-z']+/g) ?? []).slice(0, -1);
  return words.length ? words.filter((word) => known.has(word)).length / words.length : 0;
}

function start({ text, settings, length }) {
  const training = new Training(text, settings);
  const known = new Set(text.toLowerCase().match(/[a-z']+/g));
  const initial = Math.log(training.characters.length);
  run = { training, known, length, seconds: 0, trainLoss: initial, due: 1, running: true };
  measure();
  turn();
}

/** How far the run is, from 0 to 1, counted from where it was sent on the last time. */
function progress() {
  const { training, length, from = { steps: 0, seconds: 0 } } = run;
  if (length.steps) return (training.steps - from.steps) / length.steps;
  return (run.seconds - from.seconds) / length.seconds;
}

function measure() {
  const { training, seconds, trainLoss, known } = run;
  const valLoss = training.validate(MEASURED);
  const sample = training.write(240);
  const words = shareOfWords(sample, known);
  postMessage({ kind: "measure", step: training.steps, seconds, trainLoss, valLoss, words, sample });
}

/** Train for a moment, report, and come back after a look at the messages. */
function turn() {
  if (!run?.running) return;
  const { training } = run, begin = performance.now();
  do {
    const loss = training.step(Math.min(1, progress()));
    if (!Number.isFinite(loss)) return diverged();
    const share = Math.max(0.05, 1 / training.steps); // of the newest loss in the running average
    run.trainLoss += share * (loss - run.trainLoss);
    if (run.length.steps && progress() >= 1) break;
  } while (performance.now() - begin < SLICE && training.steps < run.due);
  run.seconds += (performance.now() - begin) / 1000;
  const { seconds, trainLoss } = run, finished = progress() >= 1;
  postMessage({ kind: "progress", step: training.steps, seconds, trainLoss });
  if (training.steps >= run.due || finished) {
    measure();
    run.due = nextMeasure(training.steps);
  }
  if (finished) stop(true);
  else again.port2.postMessage(0);
}

function stop(finished) {
  run.running = false;
  postMessage({ kind: "stopped", finished });
}

function diverged() {
  run.running = false;
  postMessage({
    kind: "fault",
    message: `At step ${run.training.steps} the loss is no longer a number: the steps were too large, ` +
      "and the weights ran away. Take a smaller learning rate and train again.",
  });
}

const again = new MessageChannel(); // unlike a timer, it is not made to wait
again.port1.onmessage = turn;

onmessage = ({ data }) => {
  try {
    if (data.do === "start") start(data);
    else if (data.do === "pause" && run?.running) stop(false);
    else if (data.do === "rate" && run) run.training.settings.rate = data.rate;
    else if (data.do === "go on" && run && !run.running) {
      if (progress() >= 1) {
        run.from = { steps: run.training.steps, seconds: run.seconds };
        run.length = data.length;
      }
      run.running = true;
      turn();
    }
  } catch (error) {
    postMessage({ kind: "fault", message: `The training stopped: ${error.message}` });
  }
};
