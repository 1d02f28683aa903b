// What stays in this browser: conversations in IndexedDB, choices in localStorage, the key until the tab closes.

const CHOICES = "thinkery.choices";
const KEY = "thinkery.key";
const DEFAULTS = { models: [], temperature: null, top_p: null, max_tokens: null, theme: "system", shortcuts: true };

/** The reader's choices, with defaults where none was made. */
export function choices() {
  return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(CHOICES) ?? "{}") };
}

/** Change some of the choices; returns all. */
export function choose(changes) {
  const all = { ...choices(), ...changes };
  localStorage.setItem(CHOICES, JSON.stringify(all));
  return all;
}

export const readKey = () => sessionStorage.getItem(KEY) ?? "";

export function writeKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Open the shelf of conversations; rejects where the browser keeps nothing. */
export async function openShelf() {
  const opening = indexedDB.open("thinkery", 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore("conversations", { keyPath: "id" });
    opening.result.createObjectStore("titles", { keyPath: "id" });
  };
  return new Shelf(await done(opening));
}

/** Conversations by id; titles lie apart, so that the list loads without the texts. */
class Shelf {
  constructor(database) {
    this.database = database;
  }

  /** `{ id, title, updated }` of each, the latest first. */
  async titles() {
    const titles = await done(this.database.transaction("titles").objectStore("titles").getAll());
    return titles.sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return done(this.database.transaction("conversations").objectStore("conversations").get(id));
  }

  put(conversation) {
    const { id, title, updated } = conversation;
    const change = this.database.transaction(["conversations", "titles"], "readwrite");
    change.objectStore("titles").put({ id, title, updated });
    return done(change.objectStore("conversations").put(conversation));
  }

  delete(id) {
    const change = this.database.transaction(["conversations", "titles"], "readwrite");
    change.objectStore("titles").delete(id);
    return done(change.objectStore("conversations").delete(id));
  }
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
