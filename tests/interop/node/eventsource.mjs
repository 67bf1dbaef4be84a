// The npm package "eventsource": prints each event as a line of JSON, until one says "end".
import {EventSource} from "eventsource";

const source = new EventSource(process.argv[2]);
source.addEventListener("n", (event) => {
  console.log(JSON.stringify({data: JSON.parse(event.data), id: event.lastEventId}));
  if (JSON.parse(event.data)[0] === "end") source.close();
});
source.addEventListener("gap", (event) => console.log(JSON.stringify({gap: JSON.parse(event.data)})));
source.addEventListener("position", () => console.log(JSON.stringify({open: true})));
