// A script of its own, loaded by the page.
declare const uPlot: any;
