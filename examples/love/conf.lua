function love.conf(t)
  t.window.title = "a sandbox at work"
  t.window.width, t.window.height = 640, 480
end
