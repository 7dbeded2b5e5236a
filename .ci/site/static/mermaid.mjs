// Mermaid as a module, of its one file that needs nothing else and is a plain script.
await new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL("mermaid.min.js", import.meta.url);
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
});
export default globalThis.mermaid;
