"use strict";

// Shows one image at a time: two of its pictures side by side at a movable line, all of them below.
function startPictures(root) {
  const cut = root.querySelector("[data-cut]");
  const errors = root.querySelector("[data-errors]");
  const sides = ["left", "right"].map((side) => root.querySelector(`[data-side="${side}"]`));

  function layer(picture, key, side) {
    const stack = picture.querySelector(`figure[data-key="${CSS.escape(key)}"] .stack`);
    const copy = stack.cloneNode(true);
    copy.className = `stack ${side}`;
    for (const image of copy.querySelectorAll("img")) image.loading = "eager";
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = stack.parentElement.querySelector("figcaption").firstChild.textContent;
    copy.append(name);
    return copy;
  }

  function showErrors(picture) {
    root.classList.toggle("with-errors", errors.checked);
    if (!errors.checked) return;
    for (const image of picture.querySelectorAll("img.errors[data-src]")) {
      image.src = image.dataset.src;
      image.removeAttribute("data-src");
    }
  }

  function draw() {
    const picture = root.querySelector(".picture.shown");
    const place = picture.querySelector(".compare");
    place.replaceChildren(
      layer(picture, sides[0].value, "left"),
      layer(picture, sides[1].value, "right"),
    );
    place.style.setProperty("--cut", `${cut.value}%`);
    showErrors(picture);
  }

  cut.addEventListener("input", () => {
    root.querySelector(".picture.shown .compare").style.setProperty("--cut", `${cut.value}%`);
  });
  for (const place of root.querySelectorAll(".compare")) {
    place.addEventListener("pointermove", (event) => {
      const box = place.getBoundingClientRect();
      cut.value = (100 * (event.clientX - box.left)) / box.width;
      place.style.setProperty("--cut", `${cut.value}%`);
    });
  }
  for (const control of [...sides, errors]) control.addEventListener("change", draw);
  for (const button of root.querySelectorAll(".thumb")) {
    button.addEventListener("click", () => {
      for (const other of root.querySelectorAll(".thumb")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      for (const picture of root.querySelectorAll(".picture")) {
        picture.classList.toggle("shown", picture.dataset.image === button.dataset.image);
      }
      draw();
    });
  }
  for (const figure of root.querySelectorAll("figure[data-key]")) {
    figure.addEventListener("click", () => {
      sides[1].value = figure.dataset.key;
      draw();
    });
  }
  // The pictures are fetched only when the reader scrolls near this section.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw();
  }, { rootMargin: "600px" }).observe(root);
}

for (const root of document.querySelectorAll(".pictures")) startPictures(root);
