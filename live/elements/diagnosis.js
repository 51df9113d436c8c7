// Diagnosis: what a wrong answer gave, time to think, and what the check says to it.
live.define(function diagnosisFigure(live) {
  "use strict";
  const { h } = live;

  live.element("diagnosis", {
    title: "What went wrong?",
    hint: "Each of these answers to an exercise has one mistake. What could give such a result? Think, then ask the check.",
    loads: "",

    initial: ({ exercise, answer }) => ({ exercise, answer, shown: false }),

    tidy(state, { exercises }) {
      const exercise = Math.round(live.clamp(state.exercise, 0, exercises.length - 1, 0));
      const last = exercises[exercise].answers.length - 1;
      return { exercise, answer: Math.round(live.clamp(state.answer, 0, last, 0)), shown: state.shown === true };
    },

    needs: () => "",
    numbers: async ({ exercise, answer }, { stored }) => stored.exercises[exercise].answers[answer],

    report: (state, { given, differs, says }) => ({ ...state, given, differs, says: state.shown ? says : "" }),

    says: ({ shown }, { says }) => (shown ? `The check says: ✗ ${says}` : "Which mistake gives this result?"),

    build(frame) {
      const { exercises } = frame.stored;
      const pick = h("select", { onchange: () => frame.change({ exercise: +pick.value, answer: 0, shown: false }) },
        exercises.map(({ name }, n) => h("option", { value: n }, name)));
      const count = h("span.live-muted"), task = h("p"), given = h("code.live-given"), differs = h("code.live-given");
      const step = (by) => frame.change(({ exercise, answer }) => {
        const n = exercises[exercise].answers.length;
        return { answer: (answer + by + n) % n, shown: false };
      });
      const ask = h("button.live-button.live-primary", { onclick: () => frame.change({ shown: true }) }, "What does the check say?");
      frame.stage.append(
        h("div.live-row", {}, h("label.live-choice", {}, "Exercise ", pick), count), task,
        h("div.live-panel", {}, h("div.live-label", {}, "Called with"), given, h("div.live-label", {}, "the answer gave something else"), differs),
        h("div.live-row", {}, ask, h("button.live-button", { onclick: () => step(-1) }, "← Another"), h("button.live-button", { onclick: () => step(1) }, "Another →")));

      return ({ exercise, answer, shown }, numbers) => {
        pick.value = exercise;
        count.textContent = `wrong answer ${answer + 1} of ${exercises[exercise].answers.length}`;
        task.replaceChildren(...live.code(exercises[exercise].task));
        given.textContent = numbers.given;
        differs.textContent = numbers.differs;
        ask.setAttribute("aria-disabled", shown); // disabled, it would lose the focus
      };
    },
  });
});
