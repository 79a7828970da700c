package main

// misbehave is where the demo's third version breaks: it turns ready and
// crashes two seconds later, which no test sees and a gate must.
func misbehave() {}
