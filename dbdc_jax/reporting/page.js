// Tabs and the class filter; without a script everything is shown.
(function () {
  var tabs = document.querySelectorAll('nav button[data-tab]');
  var parts = document.querySelectorAll('article');
  function open(name) {
    parts.forEach(function (part) { part.hidden = part.id !== name; });
    tabs.forEach(function (tab) {
      tab.setAttribute('aria-selected', String(tab.dataset.tab === name));
    });
  }
  tabs.forEach(function (tab) {
    tab.addEventListener('click', function () { open(tab.dataset.tab); });
  });
  if (tabs.length) { open(tabs[0].dataset.tab); }
  document.querySelectorAll('.filter input').forEach(function (box) {
    box.addEventListener('change', function () {
      document.querySelectorAll('[data-class]').forEach(function (mark) {
        if (mark.dataset.class === box.value) {
          if (box.checked) { mark.removeAttribute('hidden'); }
          else { mark.setAttribute('hidden', ''); }
        }
      });
    });
  });
  document.querySelectorAll('button[data-fold]').forEach(function (button) {
    button.addEventListener('click', function () {
      document.querySelectorAll('details').forEach(function (part) {
        part.open = button.dataset.fold === 'open';
      });
    });
  });
})();
