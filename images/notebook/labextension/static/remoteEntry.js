// Lab creates its first launcher only after the workspace has been saved, which a timer holds back by a second (measured:
// ready after 1.4 s, launcher after 2.4 s). This shows it at once. An address that opens something else is left alone.
// A federated extension by hand: what a bundler would make of one plugin that needs nothing shared.
const plugin = {
  id: 'appliance-first-launcher:plugin',
  description: 'Shows the launcher as soon as Lab is ready.',
  autoStart: true,
  activate: app => {
    if (!/\/lab\/?$/.test(window.location.pathname)) {
      return;
    }
    void app.restored.then(() => {
      if (app.shell.isEmpty?.('main') && app.commands.hasCommand('launcher:create')) {
        return app.commands.execute('launcher:create');
      }
    });
  }
};

window._JUPYTERLAB = window._JUPYTERLAB || {};
window._JUPYTERLAB['appliance-first-launcher'] = {
  init: () => {},
  get: () => Promise.resolve(() => plugin)
};
