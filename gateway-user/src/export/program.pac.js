// Called for each request; host is what the URL names.
function FindProxyForURL(url, host) {
  var name = breakout365Name(host);
  var port = breakout365Port(url);
  if (name === null || port === null) return breakout365Proxies;
  var any = function () { return true; };
  if (breakout365Lists(name, breakout365Inspected, breakout365InspectedBetween, any)) {
    return breakout365Proxies;
  }
  var listed = function (list) {
    var ranges = breakout365Ports[list];
    for (var i = 0; i < ranges.length; i++) {
      if (ranges[i][0] <= port && port <= ranges[i][1]) return true;
    }
    return false;
  };
  if (breakout365Lists(name, breakout365Direct, breakout365DirectBetween, listed)) return "DIRECT";
  return breakout365Proxies;
}

// The host in lower case; null for what is none. Only what ASCII has is made lower case: other
// letters become ASCII ones by that.
function breakout365Name(host) {
  if (!/^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$/.test(host)) return null;
  return host.toLowerCase();
}

// The port of a URL; null where it has none that is known.
function breakout365Port(url) {
  var start = url.indexOf("://");
  if (start < 0) return null;
  var end = start + 3;
  while (end < url.length && "/?#\\".indexOf(url.charAt(end)) < 0) end++;
  var authority = url.substring(start + 3, end);
  authority = authority.substring(authority.lastIndexOf("@") + 1);
  var colon = authority.lastIndexOf(":");
  if (colon >= 0 && colon + 1 < authority.length) {
    var digits = authority.substring(colon + 1);
    return /^[0-9]{1,5}$/.test(digits) ? parseInt(digits, 10) : null;
  }
  var scheme = url.substring(0, start).toLowerCase();
  if (scheme === "https" || scheme === "wss") return 443;
  if (scheme === "http" || scheme === "ws") return 80;
  return null;
}

// Whether a list has the name with ports that are wanted.
function breakout365Lists(name, fixed, between, wanted) {
  if (typeof fixed[name] === "number" && wanted(fixed[name])) return true;
  for (var dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
    var above = fixed[name.substring(dot)];
    if (typeof above === "number" && wanted(above)) return true;
  }
  for (var i = 0; i < between.length; i++) {
    var before = between[i][0], after = between[i][1];
    if (name.length >= before.length + after.length
        && name.substring(0, before.length) === before
        && name.substring(name.length - after.length) === after
        && wanted(between[i][2])) return true;
  }
  return false;
}
