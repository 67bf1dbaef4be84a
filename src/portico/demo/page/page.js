// The demo's page: what is on it, and the connection that most of it waits for.

import "./house.js";
import "./http.js";
import "./lanes.js";
import "./chat.js";
import { connect } from "./live.js";

connect();
