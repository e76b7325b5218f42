--- The official constants, and this library's version.
return {
  version = "0.1.0",
  domain = "localhost:8080",
  protocol = "http",
  request_timeout = 30,
  connect_timeout = 10,
  idle_timeout = 20,
  execd_port = 44772,
  egress_port = 18080,
  timeout = 600,
  create_request_timeout = 300,
  ready_timeout = 30,
  health_check_interval = 0.2,
  snapshot_ready_timeout = 300,
  entrypoint = { "tail", "-f", "/dev/null" },
  resource = { cpu = "1", memory = "2Gi" },
}
