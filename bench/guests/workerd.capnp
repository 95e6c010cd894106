using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .hello)],
  sockets = [(name = "http", http = (), service = "main")]);
const hello :Workerd.Worker = (
  compatibilityDate = "2025-01-01",
  modules = [(name = "hello", esModule = embed "workerd.js")]);
