/**
 * The JSON that the labelling page exchanges with the service, as types for editors and checkers.
 * Nothing here runs. All coordinates are pixels of the oriented image; ids are class keys.
 *
 * @typedef {"classification" | "multi_label" | "detection"} Task
 * @typedef {"open" | "review" | "skipped"} QueueState
 * @typedef {"label" | "retract" | "skip" | "flag" | "unflag" | "undo"} Kind
 * @typedef {{class_id: string, x: number, y: number, width: number, height: number,
 *   attributes?: Record<string, string | number>}} Box
 * @typedef {{kind: "polygon", class_id: string, points: [number, number][]}} Polygon
 * @typedef {{kind: "mask", class_id: string, counts: number[], size: [number, number]}} Mask
 * @typedef {{classes?: string[], boxes?: Box[], shapes?: (Polygon | Mask)[],
 *   attributes?: Record<string, string | number>, note?: string}} Annotation
 * @typedef {{model: string, version: number, scores: [string, number][], sure: boolean}} Suggestion
 * @typedef {{sha256: string, width: number, height: number, state: string,
 *   why: {reason?: string, [detail: string]: unknown}, sequence: number,
 *   annotation: Annotation | null, author: string | null, author_kind: string | null,
 *   disputed: boolean, suggestion: Suggestion | null, leased_until: string | null,
 *   source: string, split: string | null, attributes: Record<string, string>}} Item
 * @typedef {{id: string, name: string, state: string, place: number, hotkey: string,
 *   colour: string, help: string, images: number}} LabelClass
 * @typedef {{name: string, kind: "choice" | "number" | "colour",
 *   detail: {choices?: string[], minimum?: number, maximum?: number, unit?: string},
 *   retired?: boolean}} Attribute
 * @typedef {{event_id: string, sha256: string, kind: Kind, annotation?: Annotation,
 *   base_sequence?: number, undoes?: number, note?: string, suggested_by?: string,
 *   suggestion?: "accepted" | "edited" | "rejected", seconds?: number}} LabelEvent
 * @typedef {{sequence: number, current: boolean, state: string, label_sequence: number}} Answer
 * @typedef {{reason: string, message: string, field?: string, current?: Item}} Refusal
 */
export {};
