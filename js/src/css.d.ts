// Stylesheets are bundled as text, and put inside a view's shadow root.
declare module "*.css" {
  const text: string;
  export default text;
}
