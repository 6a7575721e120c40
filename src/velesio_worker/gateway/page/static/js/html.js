// Preact and htm as the page's modules use them. Preact sets styles through the CSSOM, which the page's policy allows.
import htm from "../vendor/htm-3.1.1/htm.mjs";
import { h } from "../vendor/preact-11.2.0/preact.mjs";

export { Component, Fragment, createContext, createRef, h, render } from "../vendor/preact-11.2.0/preact.mjs";
export {
  useCallback,
  useContext,
  useEffect,
  useErrorBoundary,
  useId,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from "../vendor/preact-11.2.0/hooks.mjs";

/** Tagged template of markup: html`<p class="note">${text}</p>`. Text is text, whatever stands in it. */
export const html = htm.bind(h);
